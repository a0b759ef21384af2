//! The parts of a key that are made of others, and those that other crates define.
//!
//! Equal values make one key, and different values make different keys, as for every
//! [`KeyPart`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::api::key_part::{KeyBuilder, KeyPart, plain_parts};

plain_parts!(IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4);

#[diagnostic::do_not_recommend]
impl KeyPart for SocketAddr {
    fn add(&self, key: &mut KeyBuilder) {
        match self {
            SocketAddr::V4(address) => address.add(key),
            SocketAddr::V6(address) => address.add(key),
        }
    }
}

#[diagnostic::do_not_recommend]
impl KeyPart for SocketAddrV6 {
    fn add(&self, key: &mut KeyBuilder) {
        key.plain(self);
        // Its text leaves this one out.
        if self.flowinfo() != 0 {
            key.part(&self.flowinfo());
        }
    }
}

/// `None` is a value like others, with a key of its own: whoever has it in a template asks for one
/// lock of all calls without a value. That key is one that no `Some` can make.
#[diagnostic::do_not_recommend]
impl<T: KeyPart> KeyPart for Option<T> {
    fn add(&self, key: &mut KeyBuilder) {
        if let Some(value) = self {
            key.part(value);
        }
    }
}

#[diagnostic::do_not_recommend]
impl<T: KeyPart> KeyPart for [T] {
    fn add(&self, key: &mut KeyBuilder) {
        for value in self {
            key.part(value);
        }
    }
}

#[diagnostic::do_not_recommend]
impl<T: KeyPart, const N: usize> KeyPart for [T; N] {
    fn add(&self, key: &mut KeyBuilder) {
        self.as_slice().add(key);
    }
}

#[diagnostic::do_not_recommend]
impl<T: KeyPart> KeyPart for Vec<T> {
    fn add(&self, key: &mut KeyBuilder) {
        self.as_slice().add(key);
    }
}

macro_rules! tuples {
    ($(($($name:ident)+))+) => {$(
        #[diagnostic::do_not_recommend]
        impl<$($name: KeyPart),+> KeyPart for ($($name,)+) {
            fn add(&self, key: &mut KeyBuilder) {
                #[allow(non_snake_case)]
                let ($($name,)+) = self;
                key$(.part($name))+;
            }
        }
    )+};
}

tuples! {
    (A)
    (A B)
    (A B C)
    (A B C D)
    (A B C D E)
    (A B C D E F)
}

#[cfg(feature = "time")]
plain_parts!(time::Date, time::Time, time::PrimitiveDateTime);

/// The instant, in UTC: equal values of different offsets make one key.
#[cfg(feature = "time")]
#[diagnostic::do_not_recommend]
impl KeyPart for time::OffsetDateTime {
    fn add(&self, key: &mut KeyBuilder) {
        match self.checked_to_offset(time::UtcOffset::UTC) {
            Some(utc) => key.plain(time::PrimitiveDateTime::new(utc.date(), utc.time())),
            // At the ends of the calendar.
            None => key.plain(self.unix_timestamp_nanos()),
        }
    }
}

#[cfg(feature = "chrono")]
plain_parts!(chrono::NaiveDate, chrono::NaiveTime, chrono::NaiveDateTime);

/// The instant, in UTC: equal values of different zones make one key.
#[cfg(feature = "chrono")]
#[diagnostic::do_not_recommend]
impl<Z: chrono::TimeZone> KeyPart for chrono::DateTime<Z> {
    fn add(&self, key: &mut KeyBuilder) {
        key.plain(self.naive_utc());
    }
}

#[cfg(feature = "jiff")]
plain_parts!(
    jiff::civil::Date,
    jiff::civil::Time,
    jiff::civil::DateTime,
    jiff::Timestamp
);

/// The instant, in UTC: equal values of different zones make one key.
#[cfg(feature = "jiff")]
#[diagnostic::do_not_recommend]
impl KeyPart for jiff::Zoned {
    fn add(&self, key: &mut KeyBuilder) {
        key.plain(self.timestamp());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::api::key_part::KeyTemplate;

    fn key(value: &(impl KeyPart + ?Sized)) -> String {
        let mut key = KeyTemplate::new();
        value.add(key.value());
        key.finish()
    }

    fn addr<T: std::str::FromStr>(text: &str) -> T {
        text.parse().ok().expect("an address")
    }

    #[test]
    fn an_address_is_written_as_it_is_read_and_escaped() {
        assert_eq!(key(&addr::<IpAddr>("10.0.0.1")), "10.0.0.1");
        assert_eq!(key(&addr::<Ipv4Addr>("10.0.0.1")), "10.0.0.1");
        assert_eq!(key(&addr::<IpAddr>("::1")), "%3A%3A1");
        assert_eq!(key(&addr::<SocketAddr>("10.0.0.1:80")), "10.0.0.1%3A80");
        assert_eq!(key(&addr::<SocketAddr>("[::1]:80")), "[%3A%3A1]%3A80");
    }

    #[test]
    fn addresses_that_differ_make_keys_that_differ() {
        let ip = Ipv6Addr::LOCALHOST;
        let mut seen = HashMap::new();
        for port in [0, 1] {
            for flow in [0, 1] {
                for scope in [0, 1] {
                    let address = SocketAddrV6::new(ip, port, flow, scope);
                    assert_eq!(seen.insert(key(&address), address), None, "{address:?}");
                }
            }
        }
        let mapped: IpAddr = addr("::ffff:10.0.0.1");
        assert_ne!(key(&mapped), key(&addr::<IpAddr>("10.0.0.1")));
    }

    #[test]
    fn tuples_and_lists_keep_their_parts_apart() {
        assert_eq!(key(&(1, "a")), "%(1%,a%)");
        assert_eq!(key(&(7,)), "7");
        assert_eq!(key(&[1, 2, 3]), "%(1%,2%,3%)");
        assert_eq!(key(&vec!["a"]), "a");
        assert_eq!(key(&[0_u8; 0]), "%(%)");
        assert_ne!(key(&("a", "b%,c")), key(&("a%,b", "c")));
        assert_ne!(key(&((1, 2), 3)), key(&(1, (2, 3))));
        assert_ne!(key(&(1, 2, 3)), key(&(1, (2, 3))));
    }

    #[test]
    fn nothing_has_a_key_that_no_value_has() {
        assert_eq!(key(&Some(5)), "5");
        assert_eq!(key(&None::<u8>), "%(%)");
        let values = [
            None,
            Some(vec![]),
            Some(vec![None]),
            Some(vec![Some("")]),
            Some(vec![Some("%(%)")]),
            Some(vec![None, None]),
            Some(vec![None, Some("")]),
        ];
        let mut seen = HashMap::new();
        for value in &values {
            assert_eq!(seen.insert(key(value), value), None, "{value:?}");
        }
    }

    #[cfg(feature = "time")]
    #[test]
    fn dates_of_time_are_written_in_utc() {
        use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

        let date = Date::from_calendar_date(2026, Month::November, 1).expect("a date");
        assert_eq!(key(&date), "2026-11-01");
        let noon = PrimitiveDateTime::new(date, Time::from_hms(12, 0, 0).expect("a time"));
        assert_eq!(key(&noon), "2026-11-01 12%3A00%3A00.0");
        let elsewhere = UtcOffset::from_hms(2, 0, 0).expect("an offset");
        let moved = noon.assume_utc().to_offset(elsewhere);
        assert_eq!(moved, noon.assume_utc());
        assert_eq!(key(&moved), key(&noon.assume_utc()));
        // The last hour of the calendar, an hour further west.
        let west = UtcOffset::from_hms(-2, 0, 0).expect("an offset");
        let last = OffsetDateTime::new_in_offset(Date::MAX, Time::MIDNIGHT, west);
        let end = last + time::Duration::hours(23);
        assert_eq!(key(&end), end.unix_timestamp_nanos().to_string());
    }

    #[cfg(feature = "chrono")]
    #[test]
    fn dates_of_chrono_are_written_in_utc() {
        use chrono::{FixedOffset, NaiveDate};

        let date = NaiveDate::from_ymd_opt(2026, 11, 1).expect("a date");
        assert_eq!(key(&date), "2026-11-01");
        let noon = date.and_hms_opt(12, 0, 0).expect("a time").and_utc();
        assert_eq!(key(&noon), "2026-11-01 12%3A00%3A00");
        let elsewhere = FixedOffset::east_opt(7200).expect("an offset");
        let moved = noon.with_timezone(&elsewhere);
        assert_eq!(moved, noon);
        assert_eq!(key(&moved), key(&noon));
    }

    #[cfg(feature = "jiff")]
    #[test]
    fn dates_of_jiff_are_written_in_utc() {
        use jiff::civil;
        use jiff::tz::{Offset, TimeZone};

        assert_eq!(key(&civil::date(2026, 11, 1)), "2026-11-01");
        let noon = civil::date(2026, 11, 1).at(12, 0, 0, 0);
        assert_eq!(key(&noon), "2026-11-01T12%3A00%3A00");
        let noon = noon.to_zoned(TimeZone::UTC).expect("in range");
        let moved = noon.with_time_zone(TimeZone::fixed(Offset::constant(2)));
        assert_eq!(key(&noon.timestamp()), "2026-11-01T12%3A00%3A00Z");
        assert_eq!(key(&moved), key(&noon));
    }
}
