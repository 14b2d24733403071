//! The text of each error reason for people, in English and Korean.
//!
//! Each text says what happened and, where the reader can act, what to do. Both languages say the same.

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

    /// Returns the supported language that an `accept-language` header prefers, or English if the header names none.
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
            // Of languages with equal quality, the first one counts.
            if quality > 0.0 && best.is_none_or(|(so_far, _)| quality > so_far) {
                best = Some((quality, language));
            }
        }
        best.map(|(_, language)| language).unwrap_or_default()
    }
}

/// Returns the name of the reason as in `ErrorInfo.reason`: without the prefix of the enum.
pub fn name(reason: ErrorReason) -> &'static str {
    let full = reason.as_str_name();
    full.strip_prefix("ERROR_REASON_").unwrap_or(full)
}

/// Returns the text of the reason for people: what happened and what to do.
pub fn text(reason: ErrorReason, language: Language) -> &'static str {
    match language {
        Language::English => english(reason),
        Language::Korean => korean(reason),
    }
}

fn english(reason: ErrorReason) -> &'static str {
    use ErrorReason as R;
    match reason {
        R::Unspecified => "An internal error occurred. If it happens again, contact the operator.",
        R::TicketNotFound => "No ticket has this ID. Check the ID.",
        R::ReservationNotFound => "No reservation has this ID. Check the ID.",
        R::PriceNotFound => "This ticket has no price yet, or does not exist. Check the ID, or try again shortly.",
        R::TicketAlreadyExists => "A ticket with this ID already exists. Choose another ID.",
        R::TicketAlreadyReserved => "This ticket is already reserved. Choose another ticket.",
        R::TicketExpired => "This ticket has expired. Choose another ticket.",
        R::TicketWithdrawn => "This ticket has been withdrawn. It can no longer be reserved or changed.",
        R::ReservationNotActive => "This reservation has already ended. It can no longer be cancelled.",
        R::UpstreamNotConfigured => {
            "The query service has no address of another service. Set upstream.ticket.url, upstream.reservation.url and upstream.pricing.url."
        }
        R::InvalidField => "A field of the request is invalid. Correct it and send the request again.",
        R::RequestIdReused => "This request_id was already used for another request. Use a new UUID.",
        R::InvalidPageToken => "The page_token is not valid for this list. Start again without a token.",
        R::InvalidConsistencyToken => {
            "The consistency_token is not valid for this ticket. Send the token of the last command on this ticket, or none."
        }
        R::EtagMismatch => {
            "The ticket was changed in the meantime. Read it again and repeat the change with the new etag."
        }
        R::TicketServiceOverloaded => {
            "The ticket cannot be checked right now. Nothing was reserved. Try again shortly."
        }
        R::ServiceOverloaded => "The service is busy. Try again shortly.",
        R::UpstreamUnavailable => "A service that is needed cannot be reached right now. Try again shortly.",
        R::StoreUnavailable => "The data of the service is not available right now. Try again shortly.",
        R::ShuttingDown => "The service is shutting down. Try again shortly.",
        R::TooManyRequests => "You have sent too many requests. Try again shortly.",
        R::DeadlineExceeded => "The request did not finish before its deadline. Try again with a longer deadline.",
        R::ViewNotCaughtUp => "The view does not show the latest changes yet. Read it again.",
        R::TokenMissing => "You are not signed in. Sign in and try again.",
        R::TokenInvalid => "Your sign-in has expired or is invalid. Sign in again.",
        R::NotAllowed => "You are not allowed to do this. Ask an administrator for access.",
        R::NotYourReservation => "This reservation belongs to another user. Choose one of your own.",
    }
}

fn korean(reason: ErrorReason) -> &'static str {
    use ErrorReason as R;
    match reason {
        R::Unspecified => "내부 오류가 발생했습니다. 다시 발생하면 운영자에게 문의하세요.",
        R::TicketNotFound => "이 ID의 티켓이 없습니다. ID를 확인하세요.",
        R::ReservationNotFound => "이 ID의 예약이 없습니다. ID를 확인하세요.",
        R::PriceNotFound => "이 티켓의 가격이 아직 없거나 티켓이 없습니다. ID를 확인하거나 잠시 후 다시 시도하세요.",
        R::TicketAlreadyExists => "이 ID의 티켓이 이미 있습니다. 다른 ID를 사용하세요.",
        R::TicketAlreadyReserved => "이미 예약된 티켓입니다. 다른 티켓을 선택하세요.",
        R::TicketExpired => "기간이 지난 티켓입니다. 다른 티켓을 선택하세요.",
        R::TicketWithdrawn => "판매가 중단된 티켓입니다. 더 이상 예약하거나 변경할 수 없습니다.",
        R::ReservationNotActive => "이미 종료된 예약입니다. 더 이상 취소할 수 없습니다.",
        R::UpstreamNotConfigured => {
            "조회 서비스에 다른 서비스의 주소가 설정되지 않았습니다. upstream.ticket.url, upstream.reservation.url, upstream.pricing.url을 설정하세요."
        }
        R::InvalidField => "요청에 올바르지 않은 필드가 있습니다. 수정한 후 다시 보내세요.",
        R::RequestIdReused => "다른 요청에 이미 사용된 request_id입니다. 새 UUID를 사용하세요.",
        R::InvalidPageToken => "이 목록에 사용할 수 없는 page_token입니다. 토큰 없이 처음부터 다시 조회하세요.",
        R::InvalidConsistencyToken => {
            "이 티켓에 사용할 수 없는 consistency_token입니다. 이 티켓에 대한 마지막 명령의 토큰을 보내거나 토큰 없이 요청하세요."
        }
        R::EtagMismatch => "그 사이에 티켓이 변경되었습니다. 다시 조회한 후 새 etag로 변경하세요.",
        R::TicketServiceOverloaded => "지금은 티켓을 확인할 수 없습니다. 예약되지 않았습니다. 잠시 후 다시 시도하세요.",
        R::ServiceOverloaded => "서비스가 혼잡합니다. 잠시 후 다시 시도하세요.",
        R::UpstreamUnavailable => "지금은 필요한 서비스에 연결할 수 없습니다. 잠시 후 다시 시도하세요.",
        R::StoreUnavailable => "지금은 서비스의 데이터를 사용할 수 없습니다. 잠시 후 다시 시도하세요.",
        R::ShuttingDown => "서비스가 종료되는 중입니다. 잠시 후 다시 시도하세요.",
        R::TooManyRequests => "요청을 너무 많이 보냈습니다. 잠시 후 다시 시도하세요.",
        R::DeadlineExceeded => "제한 시간 안에 요청을 처리하지 못했습니다. 제한 시간을 늘려 다시 시도하세요.",
        R::ViewNotCaughtUp => "조회 화면에 최신 변경 사항이 아직 반영되지 않았습니다. 다시 조회하세요.",
        R::TokenMissing => "로그인하지 않았습니다. 로그인한 후 다시 시도하세요.",
        R::TokenInvalid => "로그인이 만료되었거나 유효하지 않습니다. 다시 로그인하세요.",
        R::NotAllowed => "이 작업을 할 권한이 없습니다. 관리자에게 권한을 요청하세요.",
        R::NotYourReservation => "다른 사용자의 예약입니다. 본인의 예약을 선택하세요.",
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
