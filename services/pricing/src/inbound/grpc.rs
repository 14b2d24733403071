//! `eticket.pricing.v1.PricingService`: validates requests and converts results and errors to the contract.

use eticket_proto::{
    error::ErrorReason,
    field_text,
    ids::{InvalidId, TicketId, UserGrade},
    pricing::{
        GetPriceRequest, GetPriceResponse, GetPricingPolicyRequest, GetPricingPolicyResponse, ListPricesRequest,
        ListPricesResponse, QuotePriceRequest, QuotePriceResponse, pricing_service_server::PricingService,
    },
    time::from_proto,
};
use eticket_rpc_server::{
    error::ApiError,
    paging::{self, Page},
};
use eticket_service::failure;
use tonic::{Request, Response, Status};

use crate::{
    application::Prices,
    convert::{policy_to_message, quote_to_message, row_to_message},
};

pub struct Grpc {
    pub prices: Prices,
}

#[tonic::async_trait]
impl PricingService for Grpc {
    async fn get_price(&self, request: Request<GetPriceRequest>) -> Result<Response<GetPriceResponse>, Status> {
        let id = request.into_inner().ticket_id;
        let id: TicketId =
            id.parse().map_err(|error: InvalidId| ApiError::invalid_field("ticket_id", error.to_string()))?;
        let row = self.prices.row(&id).await.map_err(failure::store_status)?;
        let price = row.and_then(|row| row_to_message(&id, &row));
        let price = price.ok_or_else(|| ApiError::new(ErrorReason::PriceNotFound).with("ticket_id", &id))?;
        Ok(Response::new(GetPriceResponse { price: Some(price) }))
    }

    async fn list_prices(&self, request: Request<ListPricesRequest>) -> Result<Response<ListPricesResponse>, Status> {
        const SCOPE: &str = "ListPrices";
        let message = request.into_inner();
        let page = Page::parse(message.page_size, &message.page_token, SCOPE)?;
        let after = page.after.as_deref().unwrap_or_default();
        let found = self.prices.page(after, page.rows_to_read()).await.map_err(failure::store_status)?;
        let (prices, last) = page.fill(found, |(id, row)| row_to_message(id, row));
        let next_page_token = last.map(|(id, _)| paging::token(SCOPE, id.as_str())).unwrap_or_default();
        Ok(Response::new(ListPricesResponse { prices, next_page_token }))
    }

    async fn quote_price(&self, request: Request<QuotePriceRequest>) -> Result<Response<QuotePriceResponse>, Status> {
        let message = request.into_inner();
        let start = message.start_time.as_ref().and_then(from_proto).ok_or_else(|| {
            ApiError::invalid_field(
                "start_time",
                "expected a time in the years 1 to 9999, with nanos from 0 to 999999999",
            )
        });
        let grade = match message.user_grade {
            0 => Ok(None),
            number => UserGrade::from_proto(number).map(Some).ok_or_else(|| {
                let expected = format!("{}, or nothing, got {number}", field_text::USER_GRADES);
                ApiError::invalid_field("user_grade", expected)
            }),
        };
        ApiError::all([start.as_ref().err(), grade.as_ref().err()])?;
        let (start, grade) = (start?, grade?);
        let price = self.prices.quote(start, grade).await.map_err(failure::store_status)?.ok_or_else(no_policy)?;
        Ok(Response::new(QuotePriceResponse { price: Some(quote_to_message(&price)) }))
    }

    async fn get_pricing_policy(
        &self,
        _: Request<GetPricingPolicyRequest>,
    ) -> Result<Response<GetPricingPolicyResponse>, Status> {
        let policy = self.prices.policy_in_force().await.map_err(failure::store_status)?.ok_or_else(no_policy)?;
        Ok(Response::new(GetPricingPolicyResponse { policy: Some(policy_to_message(&policy)) }))
    }
}

/// Error for a store without a policy. The service adopts a policy before its first call, so this happens only if the
/// store was emptied while the service runs.
fn no_policy() -> ApiError {
    ApiError::new(ErrorReason::StoreUnavailable).message("the store has no pricing policy; restart the service")
}
