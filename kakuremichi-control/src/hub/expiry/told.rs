//! What was told of a gateway's certificates.

use std::{collections::BTreeMap, time::Duration};

use kakuremichi_core::time::Timestamp;
use kakuremichi_proto::report::CertificateStatus;
use serde::{Deserialize, Serialize};

/// A certificate is about to end: it was not renewed when it should have been.
pub(super) const EXPIRING: &str = "certificate.expiring";
/// It has ended.
pub(super) const EXPIRED: &str = "certificate.expired";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// It is told that a certificate ends when so much time is left, or that part of its life, whichever is less: one that
/// is valid for some days only is renewed late.
const SOON: (Duration, u32) = (DAY.saturating_mul(20), 4);
/// It is told again.
const VERY_SOON: (Duration, u32) = (DAY.saturating_mul(7), 12);
/// How long it is remembered that another instance told of a certificate of its own that has ended.
const OVER: Duration = DAY.saturating_mul(30);
/// The most of them.
const MAX_OTHERS: usize = 64;

/// How far it is with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    Soon,
    VerySoon,
    Expired,
}

/// What was told of those that end soon, by their ends and names. There are as many as the gateway has certificates at
/// most.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Told(BTreeMap<String, Stage>);

impl Stage {
    /// `None` when there is time.
    fn of(certificate: &CertificateStatus, now: Timestamp) -> Option<Self> {
        if now >= certificate.expires {
            return Some(Self::Expired);
        }
        let span = |from: Timestamp, to: Timestamp| {
            let millis = to.as_millis().saturating_sub(from.as_millis());
            Duration::from_millis(u64::try_from(millis).unwrap_or(0))
        };
        let (life, left) = (
            span(certificate.since, certificate.expires),
            span(now, certificate.expires),
        );
        let within = |(most, part): (Duration, u32)| left < most.min(life / part);
        if within(VERY_SOON) {
            Some(Self::VerySoon)
        } else {
            within(SOON).then_some(Self::Soon)
        }
    }

    const fn event(self) -> &'static str {
        match self {
            Self::Soon | Self::VerySoon => EXPIRING,
            Self::Expired => EXPIRED,
        }
    }
}

impl Told {
    /// What is to be remembered, and what is to be told: each event once, however many certificates it is about.
    pub(super) fn next(
        &self,
        certificates: &[CertificateStatus],
        now: Timestamp,
    ) -> (Self, Vec<&'static str>) {
        let stages = certificates.iter().filter_map(|certificate| {
            let key = format!("{} {}", certificate.expires.as_millis(), certificate.name);
            Some((key, Stage::of(certificate, now)?))
        });
        let after = Self(stages.collect());
        let mut events: Vec<_> = after
            .0
            .iter()
            .filter(|(key, stage)| self.0.get(*key).is_none_or(|told| told < *stage))
            .map(|(_, stage)| stage.event())
            .collect();
        events.sort_unstable();
        events.dedup();
        (after, events)
    }

    /// Beside these, what was told of those that `others` know of: without what ended long ago, and of too many the ones
    /// that end last.
    pub(super) fn beside(mut self, others: &Self, now: Timestamp) -> Self {
        let ends = |key: &str| key.split_once(' ').and_then(|(millis, _)| millis.parse().ok());
        let others = others.0.iter().filter_map(|(key, stage)| {
            let end: i64 = ends(key)?;
            let lasts = !self.0.contains_key(key) && now < Timestamp::from_millis(end).after(OVER);
            lasts.then(|| (end, key.clone(), *stage))
        });
        let mut others: Vec<_> = others.collect();
        others.sort_unstable();
        let others = others.into_iter().rev().take(MAX_OTHERS);
        self.0.extend(others.map(|(_, key, stage)| (key, stage)));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memo;

    const HOUR: i64 = 60 * 60 * 1000;

    fn certificate(name: &str, days: i64) -> CertificateStatus {
        CertificateStatus {
            expires: Timestamp::from_millis(days * 24 * HOUR),
            since: Timestamp::from_millis(0),
            name: name.to_owned(),
            more: 0,
        }
    }

    /// How many hours before the end what is told, when it is looked each hour and the certificate is never renewed.
    fn told(days: i64) -> Vec<(i64, &'static str)> {
        let (certificate, mut known) = (certificate("a.example.net", days), Told::default());
        let mut told = Vec::new();
        for hour in 0..=days * 24 + 48 {
            let now = Timestamp::from_millis(hour * HOUR);
            let (after, events) = known.next(std::slice::from_ref(&certificate), now);
            told.extend(events.into_iter().map(|event| (days * 24 - hour, event)));
            // It is kept as text.
            known = memo::read("test", &memo::text(&after)).unwrap();
        }
        told
    }

    #[test]
    fn each_certificate_is_told_of_three_times_at_most() {
        assert_eq!(
            told(365),
            [(20 * 24 - 1, EXPIRING), (7 * 24 - 1, EXPIRING), (0, EXPIRED)]
        );
        assert_eq!(told(6), [(35, EXPIRING), (11, EXPIRING), (0, EXPIRED)]);
    }

    #[test]
    fn one_that_is_renewed_in_time_is_not_told_of() {
        let known = Told::default();
        let now = Timestamp::from_millis(65 * 24 * HOUR);
        assert_eq!(
            known.next(&[certificate("a.example.net", 90)], now),
            (known.clone(), Vec::new())
        );
    }

    #[test]
    fn what_another_instance_told_is_remembered_for_a_while() {
        let day = |days: i64| Timestamp::from_millis(days * 24 * HOUR);
        let told = |name: &str, now| Told::default().next(&[certificate(name, 90)], now).0;
        let (first, second) = (told("a.example.net", day(85)), told("b.example.net", day(85)));
        let both = first.clone().beside(&second, day(85));
        assert_eq!(both, second.clone().beside(&first, day(85)));
        // Neither is told of again.
        let again = |name: &str| both.next(&[certificate(name, 90)], day(85));
        assert_eq!(again("a.example.net"), (first.clone(), Vec::new()));
        assert_eq!(again("b.example.net"), (second.clone(), Vec::new()));
        // What is known of one's own is newer than what others know of it.
        let (ended, events) = both.next(&[certificate("a.example.net", 90)], day(91));
        assert_eq!(events, [EXPIRED]);
        assert_eq!(ended.clone().beside(&first, day(91)), ended);
        assert_eq!(
            ended.clone().beside(&second, day(121)),
            ended,
            "it ended long ago"
        );
        let many = (0..100)
            .map(|n| certificate(&n.to_string(), 90))
            .collect::<Vec<_>>();
        let many = Told::default().next(&many, day(85)).0;
        assert_eq!(Told::default().beside(&many, day(85)).0.len(), MAX_OTHERS);
    }

    #[test]
    fn another_certificate_is_told_of_on_its_own() {
        let now = Timestamp::from_millis(85 * 24 * HOUR);
        let first = certificate("a.example.net", 90);
        let (known, events) = Told::default().next(std::slice::from_ref(&first), now);
        assert_eq!(events, [EXPIRING]);
        let both = [first, certificate("b.example.net", 90)];
        let (known, events) = known.next(&both, now);
        assert_eq!(events, [EXPIRING]);
        assert_eq!(known.next(&both, now), (known.clone(), Vec::new()));
        // The renewed one is another one, and what is gone is forgotten.
        let renewed = [certificate("a.example.net", 180)];
        assert_eq!(known.next(&renewed, now), (Told::default(), Vec::new()));
    }
}
