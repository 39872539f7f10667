package limits

import "testing"

func TestProcessors(t *testing.T) {
	for cpus, want := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 8: 4, 64: 4} {
		if got := processors(cpus); got != want {
			t.Errorf("processors(%d) = %d, want %d", cpus, got, want)
		}
	}
}
