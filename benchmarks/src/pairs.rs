//! Runs of several columns, taken in turn.

use posthaste::Result;

/// One column: what it does in each pair.
pub(crate) type Column<'a, T> = Box<dyn FnMut() -> Result<T> + 'a>;

/// Runs each column once for each pair. The order turns round from pair to pair, so that drift of
/// the machine favours nobody; the first two columns are always next to each other. Returns, for
/// each column, one value for each pair.
pub(crate) fn interleave<T>(pairs: usize, columns: &mut [Column<'_, T>]) -> Result<Vec<Vec<T>>> {
    let mut taken: Vec<Vec<T>> = columns.iter().map(|_| Vec::with_capacity(pairs)).collect();
    for pair in 0..pairs {
        for turn in 0..columns.len() {
            let at = if pair % 2 == 0 { turn } else { columns.len() - 1 - turn };
            taken[at].push(columns[at]()?);
        }
    }
    Ok(taken)
}

/// The quotients of the values of a pair.
pub(crate) fn ratios(above: &[f64], below: &[f64]) -> Vec<f64> {
    above.iter().zip(below).map(|(above, below)| above / below).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn the_order_turns_round_and_values_stay_with_their_column() {
        let log = RefCell::new(String::new());
        let column = |name: char| -> Column<'_, char> {
            let log = &log;
            Box::new(move || {
                log.borrow_mut().push(name);
                Ok(name)
            })
        };
        let taken = interleave(3, &mut [column('a'), column('b'), column('c')]).unwrap();
        assert_eq!(taken, [vec!['a'; 3], vec!['b'; 3], vec!['c'; 3]]);
        assert_eq!(log.into_inner(), "abccbaabc");
    }

    #[test]
    fn ratios_are_of_the_same_pair() {
        assert_eq!(ratios(&[1.0, 9.0], &[2.0, 3.0]), [0.5, 3.0]);
    }
}
