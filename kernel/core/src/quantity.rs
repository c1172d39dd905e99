//! Quantities as people write them: `4GiB`, `45m`, `1.5` cores.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// An amount of memory or disk, in bytes; written `512MiB`, `4GiB`, `2GB` or a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A length of time in whole seconds; written `90s`, `45m`, `2h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub u64);

/// Thousandths of something counted in decimals: processor cores, US dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Milli(pub u64);

/// How sure somebody is, in thousandths from 0 to 1000; written as a number from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Confidence(pub u16);

/// True for what a file need not name, since it is as without it.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

const BYTE_UNITS: [(&str, u64); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];
const TIME_UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (unit, factor) = units.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
    number.checked_mul(*factor)
}

fn largest_unit(value: u64, units: &[(&str, u64)]) -> String {
    units
        .iter()
        .filter(|(_, factor)| value > 0 && value.is_multiple_of(*factor))
        .max_by_key(|(_, factor)| *factor)
        .map_or_else(
            || value.to_string(),
            |(unit, factor)| format!("{}{unit}", value / factor),
        )
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&largest_unit(self.0, &BYTE_UNITS[..3]))
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&largest_unit(self.0, &TIME_UNITS))
    }
}

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// Accepts a string or a number and gives both to `parse` as text.
fn from_text<'de, D: Deserializer<'de>, T>(
    d: D,
    expected: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, D::Error> {
    struct Text<F, T>(&'static str, F, std::marker::PhantomData<T>);
    impl<F: Fn(&str) -> Option<T>, T> de::Visitor<'_> for Text<F, T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            (self.1)(text.trim()).ok_or_else(|| E::custom(format!("`{text}` is not {}", self.0)))
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }
        fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }
        fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }
    }
    d.deserialize_any(Text(expected, parse, std::marker::PhantomData))
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        from_text(d, "an amount such as 512MiB or 4GiB", |text| {
            text.parse()
                .ok()
                .or_else(|| with_unit(text, &BYTE_UNITS))
                .filter(|n| *n > 0)
                .map(Bytes)
        })
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        from_text(d, "a length of time such as 90s, 45m or 2h", |text| {
            with_unit(text, &TIME_UNITS).filter(|n| *n > 0).map(Seconds)
        })
    }
}

impl<'de> Deserialize<'de> for Milli {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        from_text(d, "a positive number with at most three decimals", |text| {
            let (whole, part) = text.split_once('.').unwrap_or((text, ""));
            let digits = part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
            let part: u64 = if digits {
                format!("{part:0<3}").parse().ok()?
            } else {
                return None;
            };
            let milli = whole
                .parse::<u64>()
                .ok()?
                .checked_mul(1000)?
                .checked_add(part)?;
            (milli > 0).then_some(Milli(milli))
        })
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Milli(self.0.into()).fmt(f)
    }
}

impl<'de> Deserialize<'de> for Confidence {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        from_text(d, "a number from 0 to 1, such as 0.9", |text| {
            let number: f64 = text.parse().ok()?;
            // What has more decimals is rounded: a model writes what it likes.
            (0.0..=1.0)
                .contains(&number)
                .then(|| Self((number * 1000.0).round() as u16))
        })
    }
}

impl Serialize for Confidence {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(f64::from(self.0) / 1000.0)
    }
}

impl Serialize for Milli {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(self.0 as f64 / 1000.0)
    }
}
