package main

import (
	"testing"
	"time"
)

func TestLongestLoss(t *testing.T) {
	began := time.Now()
	for name, c := range map[string]struct {
		seen string // a message every 10 ms: x came
		want time.Duration
	}{
		"none sent":        {"", 0},
		"all came":         {"xxx", 0},
		"one":              {"x.x", 10 * time.Millisecond},
		"the longer":       {"x.xx...x..x", 30 * time.Millisecond},
		"at the beginning": {"..x", 20 * time.Millisecond},
		"to the end":       {"x...", 20 * time.Millisecond},
	} {
		p := &pinger{seen: map[uint64]bool{}}
		for n, r := range c.seen {
			p.sentAt = append(p.sentAt, began.Add(time.Duration(n)*10*time.Millisecond))
			if r == 'x' {
				p.seen[uint64(n)] = true
			}
		}
		if got := p.longestLoss(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
