//! Forms of the values in a policy file. Enum values are accepted with and without the prefix of the contract.

use std::{fmt, marker::PhantomData};

use chrono::{NaiveDate, Weekday};
use chrono_tz::Tz;
use eticket_proto::ids::UserGrade;
use serde::{
    Deserialize,
    de::{Deserializer, Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use crate::domain::{Currency, InvalidMoney, Money, Rounding};

/// Deserializes the list of a condition. An empty list is refused, because it could mean "for all" or "for none".
pub(super) fn at_least_one<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct List<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list with at least one element")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(element) = elements.next_element()? {
                list.push(element);
            }
            if list.is_empty() {
                return Err(A::Error::custom("expected at least one; omit the key if the rule applies to all"));
            }
            Ok(list)
        }
    }
    deserializer.deserialize_seq(List(PhantomData))
}

/// An amount of money, or a whole number with an implied currency.
#[derive(Debug, Clone, Copy)]
pub(super) enum AmountForm {
    Of(Money),
    Units(Money),
}

impl AmountForm {
    /// Returns the amount; a number without a currency is in KRW.
    pub(super) fn in_krw(self) -> Money {
        match self {
            Self::Of(money) | Self::Units(money) => money,
        }
    }

    /// Returns the amount; a number without a currency is in `currency`.
    pub(super) fn in_currency(self, currency: Currency) -> Result<Money, InvalidMoney> {
        match self {
            Self::Of(money) => Ok(money),
            Self::Units(money) => Money::try_from_units(currency, money.units(), 0),
        }
    }
}

impl<'de> Deserialize<'de> for AmountForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Amount;
        impl<'de> Visitor<'de> for Amount {
            type Value = AmountForm;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter
                    .write_str("an amount of money such as 10000 KRW, 12.50 EUR or {currency_code: KRW, units: 10000}")
            }

            fn visit_i64<E: Error>(self, units: i64) -> Result<AmountForm, E> {
                Money::try_from_units(Currency::KRW, units, 0).map(AmountForm::Units).map_err(E::custom)
            }

            fn visit_u64<E: Error>(self, units: u64) -> Result<AmountForm, E> {
                self.visit_i64(i64::try_from(units).unwrap_or(i64::MAX))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<AmountForm, E> {
                text.parse().map(AmountForm::Of).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<AmountForm, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Fields {
                    currency_code: String,
                    #[serde(default)]
                    units: i64,
                    #[serde(default)]
                    nanos: i32,
                }
                let Fields { currency_code, units, nanos } = Fields::deserialize(MapAccessDeserializer::new(fields))?;
                let currency = currency_code.parse().map_err(A::Error::custom)?;
                Money::try_from_units(currency, units, nanos).map(AmountForm::Of).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_any(Amount)
    }
}

/// A day as `2027-01-31`, or as the fields of `google.type.Date`.
#[derive(Debug, Clone, Copy)]
pub(super) struct DateForm(pub(super) NaiveDate);

impl<'de> Deserialize<'de> for DateForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Date;
        impl<'de> Visitor<'de> for Date {
            type Value = DateForm;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter
                    .write_str("a day of the years 1 to 9999 such as 2027-01-31 or {year: 2027, month: 1, day: 31}")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<DateForm, E> {
                // Accept exactly this form: the parser of chrono also accepts signs and years of any length.
                let shaped = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
                let day = shaped.then(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()).flatten();
                day.map(DateForm).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<DateForm, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Fields {
                    year: i32,
                    month: u32,
                    day: u32,
                }
                let Fields { year, month, day } = Fields::deserialize(MapAccessDeserializer::new(fields))?;
                let date = NaiveDate::from_ymd_opt(year, month, day).filter(|_| (1..=9999).contains(&year));
                date.map(DateForm).ok_or_else(|| {
                    A::Error::invalid_value(serde::de::Unexpected::Other(&format!("{year}-{month}-{day}")), &self)
                })
            }
        }
        deserializer.deserialize_any(Date)
    }
}

/// An IANA time zone name.
#[derive(Debug, Clone, Copy)]
pub(super) struct ZoneForm(pub(super) Tz);

impl Default for ZoneForm {
    fn default() -> Self {
        Self(Tz::Asia__Seoul)
    }
}

impl<'de> Deserialize<'de> for ZoneForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Zone;
        impl Visitor<'_> for Zone {
            type Value = ZoneForm;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an IANA time zone such as Asia/Seoul")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ZoneForm, E> {
                let zone = text.parse().map(ZoneForm);
                zone.map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Zone)
    }
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum RoundingForm {
    #[default]
    #[serde(alias = "ROUNDING_DOWN")]
    Down,
    #[serde(alias = "ROUNDING_HALF_UP")]
    HalfUp,
    #[serde(alias = "ROUNDING_HALF_EVEN")]
    HalfEven,
}

impl From<RoundingForm> for Rounding {
    fn from(form: RoundingForm) -> Self {
        match form {
            RoundingForm::Down => Self::Down,
            RoundingForm::HalfUp => Self::HalfUp,
            RoundingForm::HalfEven => Self::HalfEven,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum WeekdayForm {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

impl From<WeekdayForm> for Weekday {
    fn from(form: WeekdayForm) -> Self {
        match form {
            WeekdayForm::Monday => Self::Mon,
            WeekdayForm::Tuesday => Self::Tue,
            WeekdayForm::Wednesday => Self::Wed,
            WeekdayForm::Thursday => Self::Thu,
            WeekdayForm::Friday => Self::Fri,
            WeekdayForm::Saturday => Self::Sat,
            WeekdayForm::Sunday => Self::Sun,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum GradeForm {
    #[serde(alias = "USER_GRADE_SILVER")]
    Silver,
    #[serde(alias = "USER_GRADE_GOLD")]
    Gold,
    #[serde(alias = "USER_GRADE_VIP")]
    Vip,
}

impl From<GradeForm> for UserGrade {
    fn from(form: GradeForm) -> Self {
        match form {
            GradeForm::Silver => Self::Silver,
            GradeForm::Gold => Self::Gold,
            GradeForm::Vip => Self::Vip,
        }
    }
}
