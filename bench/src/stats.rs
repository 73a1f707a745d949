//! Medians and their confidence intervals, over rounds in several loads of everything.
//!
//! Rounds of one load are alike: they share programs, maps, processes, and where all of these came to lie. What another
//! run would find is told by how loads differ, so it is loads that the bootstrap draws, and never rounds. A table has dozens
//! of figures, and all of them are to hold at once, so their intervals are those of 99 %.

/// Resamples of the bootstrap.
const RESAMPLES: usize = 2000;

/// A number with its 99 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A small random number generator with a fixed start (xorshift64*): the same samples give the same interval.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Starts it; the same seed gives the same numbers.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((u128::from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)) * n as u128) >> 64) as usize
    }

    /// Puts a slice in random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// The middle of the values; of an even number the mean of the two in the middle. 0 of none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The value below which `share` (0 to 1) of the values lie. 0 of none.
#[must_use]
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((share * last as f64).round() as usize).copied().unwrap_or_default()
}

/// The median of the loads' medians, and its interval: the loads are drawn again.
#[must_use]
pub fn estimate(loads: &[Vec<f64>]) -> Estimate {
    let medians: Vec<f64> = loads.iter().map(|rounds| median(rounds)).collect();
    let mut random = Random::new(1);
    let drawn: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let again = medians.iter().map(|_| medians[random.below(medians.len())]);
            median(&again.collect::<Vec<_>>())
        })
        .collect();
    Estimate { value: median(&medians), low: percentile(&drawn, 0.005), high: percentile(&drawn, 0.995) }
}

/// Round by round `f(a, b)`.
#[must_use]
pub fn paired(a: &[Vec<f64>], b: &[Vec<f64>], f: impl Fn(f64, f64) -> f64) -> Vec<Vec<f64>> {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(
            (percentile(&values, 0.5), percentile(&values, 0.99), percentile(&values, 1.0)),
            (50.0, 99.0, 100.0)
        );
    }

    #[test]
    fn an_interval_holds_its_value_and_what_loads_differ_by() {
        let loads = vec![vec![1.0; 50], vec![2.0; 50], vec![3.0; 50]];
        let e = estimate(&loads);
        assert_eq!((e.value, e.low, e.high), (2.0, 1.0, 3.0));
    }

    /// However many rounds a load has, and however they scatter, they say nothing about another load.
    #[test]
    fn rounds_do_not_narrow_an_interval() {
        let scattered = |middle: f64| (0..1001).map(|i| middle + f64::from(i) - 500.0).collect();
        let e = estimate(&[10.0, 20.0, 30.0, 40.0, 50.0].map(scattered));
        assert_eq!(e.value, 30.0);
        assert!(e.low <= 20.0 && e.high >= 40.0, "{e:?}");
    }

    #[test]
    fn pairs_are_of_the_same_round() {
        let ratio = paired(&[vec![2.0, 9.0]], &[vec![1.0, 3.0]], |a, b| a / b);
        assert_eq!(ratio, vec![vec![2.0, 3.0]]);
    }

    #[test]
    fn shuffling_keeps_every_item() {
        let mut items: Vec<usize> = (0..20).collect();
        Random::new(7).shuffle(&mut items);
        assert_ne!(items, (0..20).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..20).collect::<Vec<_>>());
    }
}
