//! The topics of a consumer: the one that was asked for, and the private one of its group.
//!
//! The group divides the partitions of the first one only. Were both divided together, a member
//! could get all of one and nothing of the other. So the private topic goes with the first
//! partition: whoever has that has all of it.

use posthaste_core::TopicName;

/// The partitions of both are counted in one row, and those of the private topic come from here on.
const PRIVATE: i32 = 1 << 19;

/// Whoever has this partition has the private topic too.
const FIRST: i32 = 0;

/// The topics of a consumer, as they are called at the broker.
#[derive(Debug)]
pub(crate) struct Topics {
    /// What the application calls the one that it asked for.
    pub(crate) topic: TopicName,
    pub(crate) main: String,
    pub(crate) private: Option<Private>,
}

/// A private topic, as it is called at the broker.
#[derive(Debug)]
pub(crate) struct Private {
    pub(crate) name: String,
    pub(crate) partitions: i32,
}

impl Topics {
    /// The partitions of a division by the group, and those that go with them.
    pub(super) fn with_private(&self, mut divided: Vec<i32>) -> Vec<i32> {
        if let Some(private) = self.private.as_ref().filter(|_| divided.contains(&FIRST)) {
            // The client names them by itself where it takes everything away.
            divided.retain(|number| self::private(*number).is_none());
            divided.extend((0..private.partitions).map(|partition| partition | PRIVATE));
        }
        divided
    }

    /// The number of a partition in the row.
    pub(super) fn number(&self, topic: &str, partition: i32) -> i32 {
        match &self.private {
            Some(private) if private.name == topic => partition | PRIVATE,
            _ => partition,
        }
    }

    /// The partition with that number.
    pub(super) fn place(&self, number: i32) -> (&str, i32) {
        match (&self.private, private(number)) {
            (Some(private), Some(partition)) => (&private.name, partition),
            _ => (&self.main, number),
        }
    }
}

/// The partition of the private topic, if the number is of one.
pub(super) const fn private(number: i32) -> Option<i32> {
    if number & PRIVATE == 0 { None } else { Some(number & !PRIVATE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_name_partitions_of_both() {
        let topic = TopicName::new("orders").unwrap();
        let private = Some(Private { name: "orders__g__retry".to_owned(), partitions: 2 });
        let both = Topics { topic, main: "orders__of8".to_owned(), private };
        for place in [("orders__of8", 0), ("orders__of8", 77), ("orders__g__retry", 5)] {
            assert_eq!(both.place(both.number(place.0, place.1)), place);
        }
        assert_eq!([both.number("orders__of8", 3), 3].map(super::private), [None, None]);
        assert_eq!(super::private(both.number("orders__g__retry", 3)), Some(3));
        let two = [0, 1].map(|partition| both.number("orders__g__retry", partition));
        assert_eq!(both.with_private(vec![0, 7]), [0, 7, two[0], two[1]]);
        assert_eq!(both.with_private(vec![two[1], 0]), [0, two[0], two[1]]);
        assert_eq!(both.with_private(vec![7]), [7]);
    }
}
