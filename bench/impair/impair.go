// Package impair is a bad network in user space: loss, delay, reordering, and a bottleneck with a queue. A kernel has netem for
// that; not every kernel does. Its relay costs CPU of the same machine, so compare figures only with others taken through it.
package impair

import (
	"math/rand/v2"
	"time"
)

// Path is one direction of a network. The zero value is a perfect one.
type Path struct {
	Loss    float64       // part of the packets that vanish
	Delay   time.Duration // of all
	Reorder float64       // part of the packets that take a way longer by Late
	Late    time.Duration
	Rate    float64 // bits a second of the bottleneck; 0: none
	Queue   int     // bytes that may wait before it; what comes on top is dropped
}

// Queue decides when a packet arrives. It knows no clock and sleeps for nothing: times come with the packets, in order.
type Queue struct {
	path Path
	rand *rand.Rand
	free time.Time // when the bottleneck has sent all that it took
}

// NewQueue makes the same decisions for the same seed.
func NewQueue(p Path, seed uint64) *Queue {
	return &Queue{path: p, rand: rand.New(rand.NewPCG(seed, 1))}
}

// Admit takes a packet of a size at a time and says when it comes out at the other end; false: never.
func (q *Queue) Admit(now time.Time, size int) (time.Time, bool) {
	lost, late := q.rand.Float64() < q.path.Loss, q.rand.Float64() < q.path.Reorder
	out := now
	if q.path.Rate > 0 {
		out = later(now, q.free)
		waiting := out.Sub(now).Seconds() * q.path.Rate / 8
		if int(waiting)+size > max(q.path.Queue, size) {
			return time.Time{}, false
		}
		out = out.Add(time.Duration(float64(size) * 8 / q.path.Rate * float64(time.Second)))
		q.free = out
	}
	if lost { // after the bottleneck: it has taken its share
		return time.Time{}, false
	}
	out = out.Add(q.path.Delay)
	if late {
		out = out.Add(q.path.Late)
	}
	return out, true
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
