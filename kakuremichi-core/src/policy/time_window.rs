//! Hours of the week.

use crate::time::Timestamp;

/// The minutes of one day.
pub const MINUTES_PER_DAY: u16 = 24 * 60;
/// The smallest and the largest offset from UTC that is in use anywhere, in minutes.
const OFFSETS: std::ops::RangeInclusive<i16> = -12 * 60..=14 * 60;

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Weekday {
    /// The first day (ISO 8601).
    Monday,
    /// The second.
    Tuesday,
    /// The third.
    Wednesday,
    /// The fourth.
    Thursday,
    /// The fifth.
    Friday,
    /// The sixth.
    Saturday,
    /// The seventh.
    Sunday,
}

impl Weekday {
    /// All seven.
    pub const ALL: [Self; 7] = [
        Self::Monday,
        Self::Tuesday,
        Self::Wednesday,
        Self::Thursday,
        Self::Friday,
        Self::Saturday,
        Self::Sunday,
    ];
}

/// A set of days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Weekdays(u8);

impl Weekdays {
    /// Every day.
    pub const ALL: Self = Self(0x7f);

    /// Takes a set of bits: the lowest is Monday's.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits & !Self::ALL.0 == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// The set as bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether `day` is in the set.
    #[must_use]
    pub const fn contains(self, day: Weekday) -> bool {
        self.0 & 1 << day as u8 != 0
    }

    /// The days in the set.
    pub fn iter(self) -> impl Iterator<Item = Weekday> {
        Weekday::ALL.into_iter().filter(move |day| self.contains(*day))
    }

    const fn has(self, day: u16) -> bool {
        self.0 >> day & 1 != 0
    }
}

impl FromIterator<Weekday> for Weekdays {
    fn from_iter<T: IntoIterator<Item = Weekday>>(days: T) -> Self {
        Self(days.into_iter().fold(0, |bits, day| bits | 1 << day as u8))
    }
}

/// A part of the day on some days of the week, at a fixed offset from UTC: daylight saving time moves it
/// by an hour, since no table of time zones is in the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimeWindow {
    days: Weekdays,
    from: u16,
    to: u16,
    offset: i16,
}

/// Why hours cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimeWindowError {
    /// It has no day.
    #[error("a time window has at least one day")]
    NoDay,
    /// A time that no day has, or two that are the same.
    #[error("a time window is from one minute of the day (0 to 1439) to another (up to 1440)")]
    Minutes,
    /// An offset that is nowhere in use.
    #[error("the offset from UTC is from -720 to 840 minutes")]
    Offset,
}

impl TimeWindow {
    /// From the minute `from` of each of `days` until just before the minute `to`, which is one of the
    /// next day if it is not behind `from`. The clock shows UTC and `offset` minutes.
    ///
    /// # Errors
    /// When there is no day, or a number is out of range.
    pub fn new(days: Weekdays, from: u16, to: u16, offset: i16) -> Result<Self, TimeWindowError> {
        if days.bits() == 0 {
            return Err(TimeWindowError::NoDay);
        }
        if from >= MINUTES_PER_DAY || to > MINUTES_PER_DAY || from == to {
            return Err(TimeWindowError::Minutes);
        }
        if !OFFSETS.contains(&offset) {
            return Err(TimeWindowError::Offset);
        }
        Ok(Self {
            days,
            from,
            to,
            offset,
        })
    }

    /// The days on which it begins.
    #[must_use]
    pub const fn days(&self) -> Weekdays {
        self.days
    }

    /// The minute of the day at which it begins.
    #[must_use]
    pub const fn start(&self) -> u16 {
        self.from
    }

    /// The minute of the day at which it is over.
    #[must_use]
    pub const fn end(&self) -> u16 {
        self.to
    }

    /// The offset from UTC, in minutes.
    #[must_use]
    pub const fn offset(&self) -> i16 {
        self.offset
    }

    /// Whether `at` is in it.
    #[must_use]
    pub const fn contains(&self, at: Timestamp) -> bool {
        /// The first of January 1970 was a Thursday.
        const EPOCH: i64 = 3 * MINUTES_PER_DAY as i64;
        let week = 7 * MINUTES_PER_DAY as i64;
        let minutes = at.as_millis().div_euclid(60_000);
        let local = (minutes.rem_euclid(week) + EPOCH + self.offset as i64).rem_euclid(week);
        // It is below 10,080.
        let (day, minute) = (local as u16 / MINUTES_PER_DAY, local as u16 % MINUTES_PER_DAY);
        if self.from < self.to {
            return self.days.has(day) && self.from <= minute && minute < self.to;
        }
        let before = (day + 6) % 7;
        self.days.has(day) && self.from <= minute || self.days.has(before) && minute < self.to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-01-01 00:00 UTC, a Monday, and so many minutes.
    fn monday(minutes: i64) -> Timestamp {
        Timestamp::from_millis(1_704_067_200_000 + minutes * 60_000)
    }

    #[test]
    fn office_hours_are_those_of_the_offset() {
        let week = Weekdays::from_bits(0b1_1111).unwrap();
        let tokyo = TimeWindow::new(week, 9 * 60, 18 * 60, 9 * 60).unwrap();
        assert!(tokyo.contains(monday(0)) && tokyo.contains(monday(9 * 60 - 1)));
        assert!(!tokyo.contains(monday(-1)) && !tokyo.contains(monday(9 * 60)));
        let saturday = 5 * 24 * 60;
        assert!(!tokyo.contains(monday(saturday)) && tokyo.contains(monday(saturday - 24 * 60)));
        assert!(!TimeWindow::new(week, 0, 1440, 0).unwrap().contains(monday(-1)));
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        let sunday = Weekdays::from_iter([Weekday::Sunday]);
        let night = TimeWindow::new(sunday, 22 * 60, 6 * 60, 0).unwrap();
        assert!(night.contains(monday(-120)) && night.contains(monday(6 * 60 - 1)));
        assert!(!night.contains(monday(-121)) && !night.contains(monday(6 * 60)));
        assert!(!night.contains(monday(23 * 60)));
        // Before the epoch, too.
        assert!(night.contains(Timestamp::from_millis(-3 * 24 * 3_600_000 - 3_600_000)));
    }

    #[test]
    fn what_is_no_window_is_refused() {
        let make = |days, from, to, offset| TimeWindow::new(Weekdays(days), from, to, offset);
        assert_eq!(make(0, 0, 1, 0), Err(TimeWindowError::NoDay));
        assert_eq!(make(1, 1440, 1, 0), Err(TimeWindowError::Minutes));
        assert_eq!(make(1, 5, 5, 0), Err(TimeWindowError::Minutes));
        assert_eq!(make(1, 0, 1441, 0), Err(TimeWindowError::Minutes));
        assert_eq!(make(1, 0, 1, 841), Err(TimeWindowError::Offset));
        assert_eq!(Weekdays::from_bits(0x80), None);
        assert_eq!(Weekdays::ALL.iter().count(), 7);
    }
}
