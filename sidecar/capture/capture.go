// Package capture shows packets as they are inside the tunnel, for whoever looks for a fault.
//
//	engine's tap -> filter -> Tap: a buffer that is full or not -> Copy -> a pcap file that grows
//
// The data path never waits for who reads: a packet for which there is no room is counted and left out. It waits for no more than the
// copy of another packet. While nobody captures, none of this is there.
//
// Units: lengths are bytes. A Tap owns its buffers; packets are the engine's again when Take returns.
package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// room is that of each of the two buffers: one is filled while the other is written.
const room = 512 << 10

// Counts are how much a capture has seen of what its filter picked.
type Counts struct {
	Captured uint64 // in the file, or on the way there
	Dropped  uint64 // there was no room
}

// Tap takes packets on one side and gives them out on the other. All methods are safe for concurrent use.
type Tap struct {
	filter Filter
	snap   int
	most   uint64        // packets; 0: as many as come
	ready  chan struct{} // capacity 1: there is something to write

	mu     sync.Mutex // guards what follows
	fill   []byte
	spare  []byte
	counts Counts
}

// NewTap makes a Tap for what was asked, which must be valid, with the filter that it names.
func NewTap(c wire.Capture, f Filter) *Tap {
	snap := c.SnapLength
	if snap == 0 {
		snap = wire.MaxSnapLength
	}
	return &Tap{filter: f, snap: snap, most: uint64(c.Count), ready: make(chan struct{}, 1), //nolint:gosec // validated: not negative
		fill: make([]byte, 0, room), spare: make([]byte, 0, room)}
}

// Take takes one packet, or leaves it. What follows the packet's own length is none of it.
func (t *Tap) Take(b []byte) {
	p, ok := Parse(b)
	if !ok || !t.filter.Match(&p) {
		return
	}
	size := min(p.Length, len(b))
	b = b[:min(size, t.snap)]
	if t.add(b, size) {
		select {
		case t.ready <- struct{}{}:
		default:
		}
	}
}

func (t *Tap) add(b []byte, size int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.most != 0 && t.counts.Captured >= t.most:
		return false
	case len(t.fill)+recordHeader+len(b) > cap(t.fill):
		t.counts.Dropped++
		return false
	}
	t.counts.Captured++
	t.fill = appendRecord(t.fill, time.Now(), b, size)
	return true
}

// Counts are those of now.
func (t *Tap) Counts() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts
}

// swap gives out what has been filled, and takes back what was given out before.
func (t *Tap) swap(old []byte) (full []byte, last bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old != nil {
		t.spare = old[:0]
	}
	full, t.fill, t.spare = t.fill, t.spare, nil
	return full, t.most != 0 && t.counts.Captured >= t.most
}

// errEnough ends a Copy that has written all that was asked for.
var errEnough = errors.New("as many packets as were asked for")

// ErrEnough says that a capture ended because it has as many packets as were asked for.
func ErrEnough(err error) bool { return errors.Is(err, errEnough) }

// Copy writes the file until ctx ends, w fails, or as many packets were written as were asked for; the error says which. It is called
// once. flush is called after each write.
func (t *Tap) Copy(ctx context.Context, w io.Writer, flush func() error) error {
	write := func(b []byte) error {
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("write packets: %w", err)
		}
		if err := flush(); err != nil {
			return fmt.Errorf("write packets: %w", err)
		}
		return nil
	}
	if err := write(appendHeader(nil, t.snap)); err != nil {
		return err
	}
	var given []byte
	for {
		var ended error
		select {
		case <-ctx.Done():
			ended = context.Cause(ctx)
		case <-t.ready:
		}
		full, last := t.swap(given)
		if len(full) > 0 {
			if err := write(full); err != nil {
				return err
			}
		}
		given = full
		switch {
		case last:
			return errEnough
		case ended != nil:
			return ended
		}
	}
}
