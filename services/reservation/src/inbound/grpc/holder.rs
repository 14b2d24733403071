//! The user and the grade of a reservation. Users reserve for themselves, with the grade of their token. Admins, and
//! every caller if authentication is off, name the user and the grade in the request.

use eticket_proto::{
    error::ErrorReason,
    ids::{UserGrade, UserId},
    reservation::ReserveTicketRequest,
};
use eticket_rpc_server::{auth::Caller, error::ApiError};

/// Returns the user and the grade of the caller's token; `None` if the request names them.
pub(super) fn for_themselves(
    message: &ReserveTicketRequest,
    caller: &Caller,
) -> Result<Option<(UserId, UserGrade)>, ApiError> {
    if caller.is_admin() {
        return Ok(None);
    }
    let user = caller.only(&message.user_id)?;
    let unusable = |claim: &str| {
        ApiError::new(ErrorReason::TokenInvalid).message(format!("the claim {claim} of the token cannot be used here"))
    };
    let user = user.parse().map_err(|_| unusable("sub"))?;
    let grade = match caller.grade() {
        None | Some("SILVER") => UserGrade::Silver,
        Some("GOLD") => UserGrade::Gold,
        Some("VIP") => UserGrade::Vip,
        Some(_) => return Err(unusable("eticket_grade")),
    };
    // UNSPECIFIED means the token's grade.
    if message.user_grade != 0 && UserGrade::from_proto(message.user_grade) != Some(grade) {
        return Err(
            ApiError::new(ErrorReason::NotAllowed).message("user_grade: expected the grade of the token, or none")
        );
    }
    Ok(Some((user, grade)))
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use eticket_auth::Claims;
    use eticket_base::credentials::Credentials;

    use super::*;

    fn caller(role: &str, grade: Option<&str>) -> Caller {
        let claims = Claims::new("kim", &[role], grade, SystemTime::now());
        Caller::with_token(Arc::new(claims), Credentials::new(String::new()))
    }

    fn request(user: &str, grade: i32) -> ReserveTicketRequest {
        ReserveTicketRequest { user_id: user.to_owned(), user_grade: grade, ..ReserveTicketRequest::default() }
    }

    #[test]
    fn users_reserve_for_themselves_with_their_grade() {
        let (kim, vip) = ("kim".parse::<UserId>(), UserGrade::Vip.to_proto().into());
        let kim = kim.expect("an id");
        for (user, grade) in [("", 0), ("kim", 0), ("kim", vip)] {
            let found = for_themselves(&request(user, grade), &caller("user", Some("VIP"))).expect("allowed");
            assert_eq!(found, Some((kim.clone(), UserGrade::Vip)));
        }
        let silver = for_themselves(&request("", 0), &caller("user", None)).expect("allowed");
        assert_eq!(silver, Some((kim, UserGrade::Silver)));
    }

    #[test]
    fn users_cannot_choose_another_user_or_grade() {
        let vip = UserGrade::Vip.to_proto().into();
        let reason =
            |user, grade, caller: &Caller| for_themselves(&request(user, grade), caller).expect_err("refused").reason();
        assert_eq!(reason("lee", 0, &caller("user", None)), ErrorReason::NotAllowed);
        assert_eq!(reason("kim", vip, &caller("user", None)), ErrorReason::NotAllowed);
        assert_eq!(reason("kim", vip, &caller("user", Some("GOLD"))), ErrorReason::NotAllowed);
        assert_eq!(reason("kim", 0, &caller("user", Some("PLATINUM"))), ErrorReason::TokenInvalid);
        assert_eq!(reason("kim", 0, &Caller::default()), ErrorReason::NotAllowed);
        assert_eq!(for_themselves(&request("lee", vip), &caller("admin", None)), Ok(None), "admins name both");
        assert_eq!(for_themselves(&request("lee", vip), &Caller::admin()), Ok(None), "without authentication too");
    }
}
