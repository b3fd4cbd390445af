//! Medians, what they are worth, and percentiles.

/// The median; of an even number of values the mean of the two in the middle. 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The interval that holds the true median with a probability of at least 95 %, whatever the
/// distribution: by order statistics. `None` below six values, where not even the smallest and the
/// largest are that sure.
pub(crate) fn interval95(values: &[f64]) -> Option<[f64; 2]> {
    let sorted = sorted(values);
    let left_out = left_out(sorted.len())?;
    Some([sorted[left_out], sorted[sorted.len() - 1 - left_out]])
}

/// How many values at each end are outside of the interval. The number of values below the true
/// median is binomial, with a probability of one half for each.
fn left_out(n: usize) -> Option<usize> {
    let mut term = 0.5_f64.powi(i32::try_from(n).ok()?);
    let mut below = 0.0;
    let mut found = None;
    for k in 0..n / 2 {
        below += term;
        if 2.0 * below > 0.05 {
            break;
        }
        found = Some(k);
        term *= as_float(n - k) / as_float(k + 1);
    }
    found
}

/// The value below which that share of the values is, from 0 to 1: the nearest rank. Sorts.
pub(crate) fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (as_float(values.len()) * share).ceil();
    // Always a small whole number, and at least zero.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ..= len")]
    let rank = rank as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// A count as a float: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^53")]
pub(crate) const fn as_float(count: usize) -> f64 {
    count as f64
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up_to(n: u32) -> Vec<f64> {
        // Not in order.
        (1..=n).rev().map(f64::from).collect()
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&up_to(9)).to_bits(), 5.0_f64.to_bits());
        assert_eq!(median(&up_to(4)).to_bits(), 2.5_f64.to_bits());
        assert_eq!(median(&[]).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn the_interval_is_that_of_the_tables() {
        // Ranks from the tables of the sign test.
        for (n, low, high) in [(6, 1.0, 6.0), (8, 1.0, 8.0), (9, 2.0, 8.0), (12, 3.0, 10.0)] {
            assert_eq!(interval95(&up_to(n)), Some([low, high]), "{n}");
        }
        assert_eq!(interval95(&up_to(20)), Some([6.0, 15.0]));
        assert_eq!(interval95(&up_to(100)), Some([40.0, 61.0]));
    }

    #[test]
    fn few_values_have_no_interval() {
        for n in 0..6 {
            assert_eq!(interval95(&up_to(n)), None, "{n}");
        }
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let mut values = up_to(200);
        for (share, value) in [(0.5, 100.0), (0.99, 198.0), (1.0, 200.0), (0.0, 1.0)] {
            assert_eq!(percentile(&mut values, share).to_bits(), f64::to_bits(value), "{share}");
        }
        assert_eq!(percentile(&mut [], 0.5).to_bits(), 0.0_f64.to_bits());
    }
}
