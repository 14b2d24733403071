//! `quote` and `policy`.

use eticket_proto::{
    pricing::{
        GetPricingPolicyRequest, PricingPolicy, PricingRule, QuotePriceRequest, Rounding, pricing_rule::Discount,
        pricing_service_client::PricingServiceClient,
    },
    r#type::{Date, DayOfWeek},
};

use super::{Session, missing, tickets::instant};
use crate::{
    Outcome,
    args::{Common, Quote, grade_number},
    json, money,
    output::{Fit, Format, Tone},
    resources::{self, line, price_lines},
};

pub(super) async fn quote(args: Quote) -> Outcome {
    let start_time = instant(args.common.zone, "--start", &args.start)?;
    let session = Session::open(&args.common).await?;
    let request = QuotePriceRequest { start_time: Some(start_time), user_grade: grade_number(args.grade) };
    let call = |channel, request| async move { PricingServiceClient::new(channel).quote_price(request).await };
    let price = session.server.call(request, call).await?.price.ok_or_else(|| missing("price"))?;
    let screen = &session.screen;
    match screen.format {
        Format::Json => screen.json(&json::value("eticket.pricing.v1.Price", &price)?),
        Format::Csv => {
            let names = ["start_time", "base_price", "discounted_price", "currency_code"].map(str::to_owned).to_vec();
            let amount = |money: Option<&_>| money.map(money::amount).unwrap_or_default();
            let currency = price.discounted_price.as_ref().map(|money| money.currency_code.clone()).unwrap_or_default();
            let (base, to_pay) = (amount(price.base_price.as_ref()), amount(price.discounted_price.as_ref()));
            screen.csv_rows([names, vec![resources::utc(Some(&start_time)), base, to_pay, currency]].into_iter())
        }
        Format::Table => {
            let start = crate::time::read(Some(&start_time)).map(|time| screen.zone.show_day(time)).unwrap_or_default();
            let mut lines = vec![line("Starts", start)];
            if let Some(grade) = args.grade {
                lines.push(line("Grade", resources::grade(grade_number(Some(grade)))));
            }
            lines.extend(price_lines(price.base_price.as_ref(), price.discounted_price.as_ref(), &price.discounts));
            screen.print(&screen.card("", &lines))
        }
    }
}

pub(super) async fn policy(common: &Common) -> Outcome {
    let session = Session::open(common).await?;
    let call = |channel, request| async move { PricingServiceClient::new(channel).get_pricing_policy(request).await };
    let response = session.server.call(GetPricingPolicyRequest {}, call).await?;
    let policy = response.policy.ok_or_else(|| missing("policy"))?;
    let screen = &session.screen;
    match screen.format {
        Format::Json => screen.json(&json::value("eticket.pricing.v1.PricingPolicy", &policy)?),
        Format::Csv => {
            let names = ["rule_id", "discount", "condition", "description"].map(str::to_owned).to_vec();
            let rows = policy.rules.iter().map(|rule| cells(rule).to_vec());
            screen.csv_rows(std::iter::once(names).chain(rows))
        }
        Format::Table => {
            let mut text = screen.card(&format!("Pricing policy, version {}", policy.version), &policy_lines(&policy));
            if !policy.rules.is_empty() {
                let columns =
                    [("RULE", Fit::Whole), ("DISCOUNT", Fit::Right), ("IF", Fit::Short), ("DESCRIPTION", Fit::Below)];
                let plain = |rule: &PricingRule| cells(rule).map(|text| (text, Tone::Plain)).to_vec();
                text += &format!("\n{}\n", screen.table(&columns, policy.rules.iter().map(plain)));
            }
            screen.print(&text)
        }
    }
}

fn policy_lines(policy: &PricingPolicy) -> resources::Lines {
    let rounding = match policy.rounding() {
        Rounding::Unspecified => "-",
        Rounding::Down => "down",
        Rounding::HalfUp => "half up",
        Rounding::HalfEven => "half to even",
    };
    vec![
        line("Base price", policy.base_price.as_ref().map(money::show).unwrap_or_default()),
        line("Time zone", &policy.business_time_zone),
        line("Rounding", rounding),
    ]
}

/// Rule, discount, conditions, description.
fn cells(rule: &PricingRule) -> [String; 4] {
    let discount = match &rule.discount {
        Some(Discount::Percent(percent)) => format!("{percent} %"),
        Some(Discount::Amount(amount)) => money::show(amount),
        None => String::new(),
    };
    let mut conditions = Vec::new();
    if !rule.weekdays.is_empty() {
        conditions.push(rule.weekdays.iter().map(|day| weekday(*day)).collect::<Vec<_>>().join(", "));
    }
    if !rule.user_grades.is_empty() {
        let grades = rule.user_grades.iter().map(|grade| resources::grade(*grade));
        conditions.push(grades.collect::<Vec<_>>().join(" or "));
    }
    conditions.extend(rule.date_from.as_ref().map(|from| format!("from {}", date(from))));
    conditions.extend(rule.date_to.as_ref().map(|to| format!("until {}", date(to))));
    let conditions = if conditions.is_empty() { "always".to_owned() } else { conditions.join("; ") };
    [rule.rule_id.clone(), discount, conditions, rule.description.clone()]
}

fn weekday(number: i32) -> String {
    let name = DayOfWeek::try_from(number).map(|day| day.as_str_name()).unwrap_or_default();
    let (first, rest) = name.split_at(name.len().min(1));
    format!("{first}{}", rest.chars().take(2).collect::<String>().to_lowercase())
}

fn date(date: &Date) -> String {
    format!("{:04}-{:02}-{:02}", date.year, date.month, date.day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_says_its_conditions() {
        let rule = PricingRule {
            rule_id: "midweek".to_owned(),
            weekdays: vec![DayOfWeek::Wednesday.into(), DayOfWeek::Thursday.into()],
            user_grades: vec![3],
            date_from: Some(Date { year: 2099, month: 1, day: 2 }),
            discount: Some(Discount::Percent(20)),
            ..Default::default()
        };
        let [id, discount, conditions, _] = cells(&rule);
        assert_eq!((id.as_str(), discount.as_str()), ("midweek", "20 %"));
        assert_eq!(conditions, "Wed, Thu; VIP; from 2099-01-02");
        assert_eq!(cells(&PricingRule::default())[2], "always");
    }
}
