//! Tests of the whole service in one process, from the bus to its responses and back to the bus.

use std::{sync::Arc, time::Duration};

use eticket_base::data::DataFolder;
use eticket_bus::{Bus, Message};
use eticket_bus_embedded::Embedded;
use eticket_proto::{
    error::ErrorReason,
    event::{PriceEvent, ReservationEvent, TicketEvent},
    ids::{ReservationId, UserGrade},
    pricing::{
        GetPriceRequest, GetPricingPolicyRequest, ListPricesRequest, Price, QuotePriceRequest,
        pricing_service_client::PricingServiceClient,
    },
    reservation::Reservation,
    subjects,
    ticket::Ticket,
};
use eticket_rpc_server::error::ApiError;
use eticket_runtime::{config::Settings, context::Context, process::Service};
use prost::Message as _;
use prost_types::Timestamp;
use tonic::{Status, transport::Channel};

use crate::{
    Pricing,
    config::{Config, PolicyConfig},
};

struct Fixture {
    client: PricingServiceClient<Channel>,
    bus: Arc<dyn Bus>,
    running: eticket_rpc_server::server::Running,
    _folder: tempfile::TempDir,
}

/// A Wednesday in Seoul.
fn wednesday() -> Timestamp {
    Timestamp { seconds: 1_799_229_600, nanos: 0 }
}

impl Fixture {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let bus: Arc<dyn Bus> = Arc::new(Embedded::open(&folder.path().join("bus.db")).await.expect("a bus"));
        let mut context = Context::new(Pricing::NAME, Settings::for_tests());
        context.data = Some(DataFolder::open(folder.path()).expect("free"));
        context.bus = Some(bus.clone());
        let audit = eticket_service::config::AuditConfig { rows_per_second: 200, confirm_after_ms: 10_000 };
        let config = Config { policy: PolicyConfig { file: None, reload_interval_ms: 2_000, settle_ms: 5_000 }, audit };
        let running = Pricing::build(&context, config).await.expect("built");
        let channel = Channel::from_shared(format!("http://{}", running.address())).expect("an address");
        Self { client: PricingServiceClient::new(channel.connect_lazy()), bus, running, _folder: folder }
    }

    async fn publish(&self, subject: String, body: Vec<u8>) {
        self.bus.publish(Message { subject, headers: Vec::new(), body: body.into() }).await.expect("published");
    }

    async fn register(&self, ticket: &str) {
        let message = Ticket {
            ticket_id: ticket.to_owned(),
            start_time: Some(wednesday()),
            schedule_revision: 1,
            revision: 1,
            ..Ticket::default()
        };
        let body = TicketEvent { ticket: Some(message), withdrawn: false }.encode_to_vec();
        self.publish(subjects::ticket(&ticket.parse().expect("an id")), body).await;
    }

    async fn reserve(&self, ticket: &str, revision: i64, grade: UserGrade) {
        let id = ReservationId::generate();
        let reservation = Reservation {
            reservation_id: id.to_string(),
            user_grade: grade.to_proto().into(),
            ..Reservation::default()
        };
        let event = ReservationEvent {
            reservation: Some(reservation),
            ticket_id: ticket.to_owned(),
            ledger_revision: revision,
            active_reservation_id: id.to_string(),
            closed: false,
        };
        self.publish(subjects::reservation(&ticket.parse().expect("an id"), id), event.encode_to_vec()).await;
    }

    async fn price(&self, ticket: &str) -> Result<Price, Status> {
        let request = GetPriceRequest { ticket_id: ticket.to_owned() };
        let response = self.client.clone().get_price(request).await?;
        Ok(response.into_inner().price.expect("a price"))
    }

    /// Waits for a price of at least this revision, within a bound.
    async fn price_at(&self, ticket: &str, revision: i64) -> Price {
        let found = async {
            loop {
                match self.price(ticket).await {
                    Ok(price) if price.revision >= revision => return price,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), found).await.expect("the price in time")
    }
}

fn units(price: &Price) -> i64 {
    price.discounted_price.as_ref().expect("an amount").units
}

fn reason(error: &Status) -> Option<ErrorReason> {
    ApiError::from_status(error)
}

#[tokio::test]
async fn prices_follow_events_and_are_published() {
    let fixture = Fixture::start().await;
    assert_eq!(reason(&fixture.price("t").await.expect_err("unknown")), Some(ErrorReason::PriceNotFound));
    fixture.register("t").await;
    assert_eq!(units(&fixture.price_at("t", 1).await), 8_000);
    fixture.reserve("t", 1, UserGrade::Vip).await;
    let price = fixture.price_at("t", 2).await;
    assert_eq!((units(&price), price.reservation_revision, price.schedule_revision), (7_000, 1, 1));
    let taken: Vec<_> = price.discounts.iter().map(|discount| discount.rule_id.as_str()).collect();
    assert_eq!(taken, ["midweek", "vip"]);

    let mut consumer = fixture.bus.attach("reader", &[subjects::PRICES]).await.expect("attached");
    let mut revisions = Vec::new();
    while revisions.len() < 2 {
        for delivery in consumer.next(10).await.expect("events") {
            let event = PriceEvent::decode(delivery.message.body.clone()).expect("an event");
            assert_eq!(event.policy_version, 1);
            revisions.push(event.price.expect("a price").revision);
        }
    }
    assert_eq!(revisions, [1, 2]);
    fixture.running.stop().await;
}

#[tokio::test]
async fn prices_are_listed_page_by_page() {
    let fixture = Fixture::start().await;
    for number in 0..5 {
        fixture.register(&format!("t{number}")).await;
    }
    for number in 0..5 {
        fixture.price_at(&format!("t{number}"), 1).await;
    }
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListPricesRequest { page_size: 2, page_token };
        let page = fixture.client.clone().list_prices(request).await.expect("a page").into_inner();
        assert!(page.prices.len() <= 2);
        listed.extend(page.prices.into_iter().map(|price| price.ticket_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, ["t0", "t1", "t2", "t3", "t4"]);
    let list = async |page_size: i32, page_token: &str| {
        let request = ListPricesRequest { page_size, page_token: page_token.to_owned() };
        fixture.client.clone().list_prices(request).await.expect_err("refused")
    };
    assert_eq!(reason(&list(-1, "").await), Some(ErrorReason::InvalidField));
    assert_eq!(reason(&list(0, "nonsense").await), Some(ErrorReason::InvalidPageToken));
    fixture.running.stop().await;
}

#[tokio::test]
async fn a_quote_is_computed_without_a_ticket() {
    let fixture = Fixture::start().await;
    let quote = async |start_time: Option<Timestamp>, user_grade: i32| {
        let response = fixture.client.clone().quote_price(QuotePriceRequest { start_time, user_grade }).await?;
        Ok::<_, Status>(response.into_inner().price.expect("a price"))
    };
    let vip = quote(Some(wednesday()), UserGrade::Vip.to_proto().into()).await.expect("a quote");
    assert_eq!((units(&vip), vip.ticket_id.as_str(), vip.revision), (7_000, "", 0));
    assert_eq!(units(&quote(Some(wednesday()), 0).await.expect("a quote")), 8_000);
    for (start, grade) in [(None, 0), (Some(wednesday()), 99), (Some(Timestamp { seconds: i64::MAX, nanos: 0 }), 0)] {
        let refused = quote(start, grade).await.expect_err("refused");
        assert_eq!(reason(&refused), Some(ErrorReason::InvalidField), "{refused:?}");
    }
    assert_eq!(reason(&fixture.price("a.b").await.expect_err("no id")), Some(ErrorReason::InvalidField));
    let policy = fixture.client.clone().get_pricing_policy(GetPricingPolicyRequest {}).await.expect("a policy");
    let policy = policy.into_inner().policy.expect("a policy");
    assert_eq!((policy.version, policy.business_time_zone.as_str(), policy.rules.len()), (1, "Asia/Seoul", 2));
    fixture.running.stop().await;
}
