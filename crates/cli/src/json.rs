//! Messages as proto3 JSON, by the descriptors of the contract: the form in which other tools print them too.

use prost::Message;
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::error::Error;

/// A message of this full name as a JSON value. Fields with default values are included, so that programs find every field.
///
/// # Errors
/// If the contract has no such message.
pub(crate) fn value(name: &str, message: &impl Message) -> Result<Value, Error> {
    let unknown = || Error::internal(format!("the contract has no message {name}"));
    let pool = eticket_proto::descriptor_pool().map_err(Error::internal)?;
    let descriptor = pool.get_message_by_name(name).ok_or_else(unknown)?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).map_err(Error::internal)?;
    let options = SerializeOptions::new().skip_default_fields(false);
    dynamic.serialize_with_options(serde_json::value::Serializer, &options).map_err(Error::internal)
}

#[cfg(test)]
mod tests {
    use eticket_proto::{query::TicketView, r#type::Money};
    use prost_types::Timestamp;

    use super::*;

    #[test]
    fn messages_are_proto3_json() {
        let view = TicketView {
            ticket_id: "1".to_owned(),
            ticket_status: eticket_proto::ticket::TicketStatus::Reserved.into(),
            start_time: Some(Timestamp { seconds: 0, nanos: 0 }),
            base_price: Some(Money { currency_code: "KRW".to_owned(), units: 10_000, nanos: 0 }),
            ..Default::default()
        };
        let json = value("eticket.query.v1.TicketView", &view).expect("a message of the contract");
        assert_eq!(json["ticketId"], "1");
        assert_eq!(json["ticketStatus"], "TICKET_STATUS_RESERVED");
        assert_eq!(json["startTime"], "1970-01-01T00:00:00Z");
        assert_eq!(json["basePrice"]["units"], "10000");
        assert_eq!(json["settled"], false);
        assert!(value("eticket.query.v1.Nothing", &view).is_err());
    }
}
