package netstack

import (
	"sync"
	"time"
)

// deadline is one direction's deadline: a channel that is closed once it has passed. The zero value never passes.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	passed chan struct{}
	fired  bool
}

// wait returns a channel that is closed when the deadline passes. Moving the deadline also moves those who wait already,
// unless it had passed.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.channel()
}

func (d *deadline) channel() chan struct{} {
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}

// set moves the deadline; the zero time removes it.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.fired {
		d.passed, d.fired = nil, false
	}
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		close(d.channel())
		d.fired = true
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.timer == timer { // else it was moved while this waited for the lock
			close(d.channel())
			d.fired = true
		}
	})
	d.timer = timer
}
