//! Texts for invalid fields: the names of enum values as in JSON, and for `BadRequest` the reason and the Korean text of each
//! field.

/// For a field that must be a `UserGrade`.
pub const USER_GRADES: &str = "expected USER_GRADE_SILVER, USER_GRADE_GOLD or USER_GRADE_VIP";

/// For a filter by `TicketStatus`.
pub const TICKET_STATUSES: &str = "expected TICKET_STATUS_AVAILABLE, TICKET_STATUS_RESERVED, TICKET_STATUS_EXPIRED or \
     TICKET_STATUS_WITHDRAWN, or nothing for all";

/// For a filter by `ReservationStatus`.
pub const RESERVATION_STATUSES: &str = "expected RESERVATION_STATUS_RESERVED, RESERVATION_STATUS_CANCELLED or \
     RESERVATION_STATUS_REJECTED, or nothing for all";

/// For a field that must be a `WaitFor`.
pub const WAITS: &str = "expected WAIT_FOR_NONE, WAIT_FOR_APPLIED or WAIT_FOR_SETTLED, or nothing";

/// For the request metadata `eticket-wait`.
pub const WAIT_HEADERS: &str = "expected none, applied or settled, or nothing";

/// The parts of `BadRequest.FieldViolation` besides field and description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldText {
    /// The `reason`, for programs.
    pub reason: &'static str,
    /// What is expected, in Korean.
    pub korean: &'static str,
}

/// Returns the text for a field by its path in the request. A field has the same rule in every request.
pub fn find(field: &str) -> FieldText {
    // "ticket_ids[3]" is the id of a ticket; "ticket_ids" is the list.
    let element = field.split_once('[').map(|(list, _)| list.trim_end_matches('s'));
    let name = element.unwrap_or(field);
    let (reason, korean) = match name.strip_prefix("filter_").unwrap_or(name) {
        "ticket_id" => ("INVALID_TICKET_ID", "영문자, 숫자, '_', '-'로 이루어진 1~64자여야 합니다."),
        "ticket_ids" => {
            ("TOO_MANY_TICKET_IDS", "티켓은 1,000개까지 지정할 수 있습니다. 모든 티켓을 보려면 비워 두세요.")
        }
        "reservation_id" => (
            "INVALID_RESERVATION_ID",
            "예약할 때 받은 reservation_id를 그대로 보내세요. 하이픈이 있는 소문자 UUIDv7입니다.",
        ),
        "user_id" => ("INVALID_USER_ID", "제어 문자가 없는 1~128자여야 합니다."),
        "user_grade" => {
            ("INVALID_USER_GRADE", "USER_GRADE_SILVER, USER_GRADE_GOLD, USER_GRADE_VIP 중 하나여야 합니다.")
        }
        "title" => ("INVALID_TITLE", "제어 문자가 없는 1~200자여야 합니다."),
        "start_time" => {
            ("INVALID_START_TIME", "1년부터 9999년까지의 시각이어야 하며, 티켓의 end_time보다 앞서야 합니다.")
        }
        "end_time" => {
            ("INVALID_END_TIME", "1년부터 9999년까지의 시각이어야 하며, 티켓의 start_time보다 뒤여야 합니다.")
        }
        "start_time_from" | "start_time_to" => ("INVALID_TIME", "1년부터 9999년까지의 시각이어야 합니다."),
        "update_mask" => ("INVALID_UPDATE_MASK", "title, start_time, end_time 또는 *만 지정할 수 있습니다."),
        "request_id" => ("INVALID_REQUEST_ID", "nil이 아닌 UUID를 보내거나 비워 두세요."),
        "status" => ("INVALID_STATUS", "description에 있는 상태 값 중 하나를 보내거나, 모두 보려면 비워 두세요."),
        "wait" => ("INVALID_WAIT", "WAIT_FOR_NONE, WAIT_FOR_APPLIED, WAIT_FOR_SETTLED 중 하나를 보내거나 비워 두세요."),
        "eticket-wait" => ("INVALID_WAIT", "none, applied, settled 중 하나를 보내거나 비워 두세요."),
        "eticket-consistency-token" => {
            ("TOO_MANY_CONSISTENCY_TOKENS", "토큰은 64개까지 보낼 수 있습니다. 티켓마다 가장 새로운 토큰만 보내세요.")
        }
        "order_by" => (
            "INVALID_ORDER_BY",
            "start_time, ticket_id, discounted_price, update_time을 쉼표로 나열하세요. 내림차순은 뒤에 desc를 붙입니다.",
        ),
        "page_size" => ("INVALID_PAGE_SIZE", "1~1000이어야 합니다. 기본값을 쓰려면 0을 보내세요."),
        "resume_token" => {
            ("INVALID_RESUME_TOKEN", "이전 WatchTicketViews에서 받은 resume_token을 보내거나 비워 두세요.")
        }
        "event_id" => ("UNKNOWN_EVENT_ID", "ListParkedEvents에 나오는 event_id를 보내세요."),
        "eticket-service" => {
            ("INVALID_SERVICE", "eticket-service 헤더는 ticket, reservation, pricing, query 중 하나여야 합니다.")
        }
        "grpc-timeout" => {
            ("INVALID_TIMEOUT", "숫자 1~8자리에 단위 H, M, S, m, u, n 중 하나를 붙이세요. 예: 250m은 250밀리초입니다.")
        }
        _ => ("INVALID_VALUE", "값이 올바르지 않습니다. description을 참고하세요."),
    };
    FieldText { reason, korean }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        query::WaitFor,
        reservation::{ReservationStatus, UserGrade},
        ticket::TicketStatus,
    };

    #[test]
    fn a_field_is_found_in_filters_and_lists() {
        for (field, reason) in [
            ("ticket_id", "INVALID_TICKET_ID"),
            ("filter_ticket_id", "INVALID_TICKET_ID"),
            ("ticket_ids[7]", "INVALID_TICKET_ID"),
            ("ticket_ids", "TOO_MANY_TICKET_IDS"),
            ("filter_status", "INVALID_STATUS"),
            ("something_new", "INVALID_VALUE"),
        ] {
            assert_eq!(find(field).reason, reason, "{field}");
        }
    }

    #[test]
    fn every_value_is_named_as_json_spells_it() {
        let names = [
            (
                USER_GRADES,
                (1..).map_while(|n| UserGrade::try_from(n).ok()).map(|v| v.as_str_name()).collect::<Vec<_>>(),
            ),
            (TICKET_STATUSES, (1..).map_while(|n| TicketStatus::try_from(n).ok()).map(|v| v.as_str_name()).collect()),
            (
                RESERVATION_STATUSES,
                (1..).map_while(|n| ReservationStatus::try_from(n).ok()).map(|v| v.as_str_name()).collect(),
            ),
            (WAITS, (1..).map_while(|n| WaitFor::try_from(n).ok()).map(|v| v.as_str_name()).collect()),
        ];
        for (text, names) in names {
            assert!(names.len() >= 3 && names.iter().all(|name| text.contains(name)), "{text}: {names:?}");
        }
    }
}
