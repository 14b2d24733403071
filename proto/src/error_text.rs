//! What each error reason says to a person, in the languages of the contract.

use crate::error::ErrorReason;

/// A language of `LocalizedMessage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Language {
    #[default]
    English,
    Korean,
}

impl Language {
    /// The BCP 47 tag that `LocalizedMessage.locale` carries.
    pub fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Korean => "ko",
        }
    }

    /// The language that an `accept-language` header prefers among those there are; English if it names none of them.
    pub fn negotiate(accept_language: &str) -> Self {
        let mut best: Option<(f32, Self)> = None;
        for entry in accept_language.split(',') {
            let mut parts = entry.split(';');
            let tag = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
            let quality = parts
                .filter_map(|part| part.split_once('='))
                .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
                .map_or(Some(1.0), |(_, text)| text.trim().parse::<f32>().ok())
                .unwrap_or(0.0);
            let language = match tag.split('-').next() {
                Some("ko") => Self::Korean,
                Some("en" | "*") => Self::English,
                _ => continue,
            };
            // Of equal wishes the first counts.
            if quality > 0.0 && best.is_none_or(|(so_far, _)| quality > so_far) {
                best = Some((quality, language));
            }
        }
        best.map(|(_, language)| language).unwrap_or_default()
    }
}

/// The reason's name as `ErrorInfo.reason` carries it: without the enum's prefix.
pub fn name(reason: ErrorReason) -> &'static str {
    let full = reason.as_str_name();
    full.strip_prefix("ERROR_REASON_").unwrap_or(full)
}

/// A sentence for a person: what happened and what to do.
pub fn text(reason: ErrorReason, language: Language) -> &'static str {
    let (english, korean) = texts(reason);
    match language {
        Language::English => english,
        Language::Korean => korean,
    }
}

fn texts(reason: ErrorReason) -> (&'static str, &'static str) {
    use ErrorReason as R;
    match reason {
        R::Unspecified => ("Something went wrong.", "오류가 발생했습니다."),
        R::TicketNotFound => ("There is no such ticket.", "존재하지 않는 티켓입니다."),
        R::ReservationNotFound => ("There is no such reservation.", "존재하지 않는 예약입니다."),
        R::PriceNotFound => ("There is no price for this ticket yet.", "이 티켓의 가격이 아직 없습니다."),
        R::TicketAlreadyExists => (
            "A ticket with this id exists already. Choose another id.",
            "같은 ID의 티켓이 이미 있습니다. 다른 ID를 사용하세요.",
        ),
        R::TicketAlreadyReserved => ("The ticket is already reserved.", "이미 예약된 티켓입니다."),
        R::TicketExpired => ("The ticket is past its end.", "기간이 지난 티켓입니다."),
        R::TicketWithdrawn => ("The ticket has been withdrawn.", "판매가 중단된 티켓입니다."),
        R::ReservationNotActive => ("The reservation has already ended.", "이미 종료된 예약입니다."),
        R::UpstreamNotConfigured => (
            "This service was not told where the others are. Set upstream.ticket.url, upstream.reservation.url and upstream.pricing.url.",
            "다른 서비스의 주소가 설정되지 않았습니다. upstream.ticket.url, upstream.reservation.url, upstream.pricing.url을 설정하세요.",
        ),
        R::InvalidField => ("A field of the request is not valid.", "요청의 필드가 올바르지 않습니다."),
        R::RequestIdReused => (
            "This request_id was used for another request. Use a new one.",
            "다른 요청에 사용된 request_id입니다. 새 값을 사용하세요.",
        ),
        R::InvalidPageToken => (
            "The page token is not valid for this list. Start without one.",
            "이 목록에 사용할 수 없는 페이지 토큰입니다. 토큰 없이 다시 시작하세요.",
        ),
        R::InvalidConsistencyToken => (
            "The consistency token is not valid for this ticket. Send the token of a command on this ticket, or none.",
            "이 티켓에 사용할 수 없는 일관성 토큰입니다. 이 티켓에 대한 명령의 토큰을 보내거나 토큰 없이 요청하세요.",
        ),
        R::EtagMismatch => (
            "The ticket was changed meanwhile. Read it again and repeat the change.",
            "그 사이에 티켓이 변경되었습니다. 다시 조회한 후 변경하세요.",
        ),
        R::TicketServiceOverloaded => (
            "Tickets cannot be checked right now. Try again shortly.",
            "지금은 티켓을 확인할 수 없습니다. 잠시 후 다시 시도하세요.",
        ),
        R::ServiceOverloaded => {
            ("The service is busy. Try again shortly.", "서비스가 혼잡합니다. 잠시 후 다시 시도하세요.")
        }
        R::UpstreamUnavailable => (
            "The service cannot be reached right now. Try again shortly.",
            "지금은 서비스에 연결할 수 없습니다. 잠시 후 다시 시도하세요.",
        ),
        R::StoreUnavailable => (
            "The service's data is not available right now. Try again shortly.",
            "지금은 데이터를 사용할 수 없습니다. 잠시 후 다시 시도하세요.",
        ),
        R::ShuttingDown => {
            ("The service is shutting down. Try again shortly.", "서비스가 종료되는 중입니다. 잠시 후 다시 시도하세요.")
        }
        R::TooManyRequests => {
            ("Too many requests. Try again shortly.", "요청이 너무 많습니다. 잠시 후 다시 시도하세요.")
        }
        R::DeadlineExceeded => ("There was not enough time to answer.", "제한 시간 안에 응답하지 못했습니다."),
        R::ViewNotCaughtUp => {
            ("The view has not caught up yet. Ask again.", "조회 화면이 아직 갱신되지 않았습니다. 다시 조회하세요.")
        }
        R::TokenMissing => ("Sign in first.", "먼저 로그인하세요."),
        R::TokenInvalid => {
            ("Your sign-in is not valid any more. Sign in again.", "로그인이 유효하지 않습니다. 다시 로그인하세요.")
        }
        R::NotAllowed => ("You are not allowed to do this.", "이 작업을 할 권한이 없습니다."),
        R::NotYourReservation => ("This is somebody else's reservation.", "다른 사용자의 예약입니다."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_language_is_found() {
        for (header, expected) in [
            ("", Language::English),
            ("ko", Language::Korean),
            ("ko-KR,ko;q=0.9,en;q=0.8", Language::Korean),
            ("en;q=0.5, ko;q=0.7", Language::Korean),
            ("en, ko", Language::English),
            ("de, fr;q=0.9", Language::English),
            ("ko;q=0", Language::English),
            ("ko;q=nonsense", Language::English),
        ] {
            assert_eq!(Language::negotiate(header), expected, "{header:?}");
        }
    }

    #[test]
    fn every_reason_has_a_name_and_two_texts() {
        for number in 1..100 {
            let Ok(reason) = ErrorReason::try_from(number) else { continue };
            assert!(!name(reason).starts_with("ERROR_REASON"));
            assert_ne!(text(reason, Language::English), text(reason, Language::Korean), "{reason:?}");
        }
    }
}
