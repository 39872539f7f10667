package bench

import (
	"math"
	"slices"
)

// Median is NaN for nothing; of an even number it is the mean of the middle two.
func Median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	m := len(s) / 2
	if len(s)%2 == 1 {
		return s[m]
	}
	return (s[m-1] + s[m]) / 2
}

// Percentile is the smallest value that at least p percent of all do not exceed; NaN for nothing.
func Percentile(v []float64, p float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	rank := int(math.Ceil(p / 100 * float64(len(s))))
	return s[min(max(rank, 1), len(s))-1]
}

// Jain is the fairness of shares: 1 when all are equal, 1/n when one has everything. Nothing at all is shared unfairly, too:
// streams that carried no bytes count as starved, not as equals.
func Jain(v []float64) float64 {
	var sum, squares float64
	for _, x := range v {
		sum += x
		squares += x * x
	}
	if squares == 0 {
		return 0
	}
	return sum * sum / (float64(len(v)) * squares)
}

// Slowest is the smallest share as a part of the largest; 0 when there is none.
func Slowest(v []float64) float64 {
	if len(v) == 0 || slices.Max(v) == 0 {
		return 0
	}
	return slices.Min(v) / slices.Max(v)
}

// Spread is how far apart the rounds were: (largest - smallest) / median.
func Spread(v []float64) float64 {
	m := Median(v)
	if len(v) == 0 || m == 0 {
		return math.NaN()
	}
	return (slices.Max(v) - slices.Min(v)) / math.Abs(m)
}
