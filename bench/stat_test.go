package bench

import (
	"math"
	"testing"
)

func TestStatistics(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want float64
	}{
		{"median of nothing", Median(nil), math.NaN()},
		{"median, odd", Median([]float64{9, 1, 5}), 5},
		{"median, even", Median([]float64{4, 1, 3, 2}), 2.5},
		{"p99 of nothing", Percentile(nil, 99), math.NaN()},
		{"p99 of one", Percentile([]float64{7}, 99), 7},
		{"p50 of four", Percentile([]float64{4, 3, 2, 1}, 50), 2},
		{"p99 of a hundred", Percentile(upTo(100), 99), 99},
		{"p99 of a thousand", Percentile(upTo(1000), 99), 990},
		{"p100", Percentile(upTo(100), 100), 100},
		{"p0", Percentile(upTo(100), 0), 1},
		{"Jain, equal", Jain([]float64{3, 3, 3, 3}), 1},
		{"Jain, one has all", Jain([]float64{8, 0, 0, 0}), 0.25},
		{"Jain, nothing came", Jain([]float64{0, 0}), 0},
		{"slowest", Slowest([]float64{5, 20, 10}), 0.25},
		{"slowest of none", Slowest(nil), 0},
		{"slowest of zeros", Slowest([]float64{0, 0}), 0},
		{"spread", Spread([]float64{8, 10, 12}), 0.4},
	} {
		if !(math.Abs(c.got-c.want) < 1e-9 || math.IsNaN(c.got) && math.IsNaN(c.want)) {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}
}

func TestStatisticsLeaveTheirInput(t *testing.T) {
	v := []float64{3, 1, 2}
	Median(v)
	Percentile(v, 50)
	if v[0] != 3 || v[1] != 1 || v[2] != 2 {
		t.Error("the input was sorted:", v)
	}
}

func upTo(n int) (v []float64) {
	for i := n; i > 0; i-- {
		v = append(v, float64(i))
	}
	return v
}
