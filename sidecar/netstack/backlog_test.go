package netstack

import (
	"context"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// TestBacklog: a buffer grows while windows are read faster than a few round trips take, and not otherwise.
func TestBacklog(t *testing.T) {
	const trip = 10 * time.Millisecond
	for _, c := range []struct {
		name  string
		trip  time.Duration
		every time.Duration // reads of an eighth of the first window
		reads int
		want  int
	}{
		{"a window each trip", trip, trip / 8, 8, 2 * backlogFirst},
		{"goes on", trip, trip / 8, 8 + 16, 4 * backlogFirst},
		{"until it is enough", trip, trip / 8, 1000, 8 * backlogFirst}, // a window of four trips
		{"as little as there is", trip, trip, 1000, backlogFirst},
		{"nothing known of the path", 0, trip, 9, 2 * backlogFirst},
		{"as much as may be", 0, trip / 1000, 10000, receiveMax},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, now := backlog{size: backlogFirst}, time.Now()
			grown := 0
			for range c.reads {
				if b.took(backlogFirst/16, now, func() time.Duration { return c.trip }) {
					grown++
				}
				now = now.Add(c.every)
			}
			if b.size != c.want || backlogFirst<<grown != c.want {
				t.Errorf("%d KiB after %d changes, want %d", b.size>>10, grown, c.want>>10)
			}
		})
	}
}

// TestBacklogBesideOthers: what a stream begins with is less where there are many, and again more when they have gone.
func TestBacklogBesideOthers(t *testing.T) {
	a, b := wired(t, 1420, nil)
	accepted := make(chan datapath.Stream, 1)
	b.HandleTCP(func(q datapath.TCPRequest) {
		if c, err := q.Accept(); err == nil {
			accepted <- c
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	size := func(s datapath.Stream) int { return int(s.(*stream).ep.SocketOptions().GetReceiveBufferSize()) }
	var all []datapath.Stream
	total := 0
	open := func() (near, far datapath.Stream) {
		near, err := a.DialTCP(ctx, netip.AddrPortFrom(v4(2), 80))
		if err != nil {
			t.Fatal(err)
		}
		far = <-accepted
		return near, far
	}
	for range 1000 {
		near, far := open()
		all = append(all, near, far)
		total += size(far)
	}
	if first, last := size(all[1]), size(all[len(all)-1]); first != backlogFirst || last != backlogLeast {
		t.Errorf("the first of 1000 begins with %d KiB, the last with %d", first>>10, last>>10)
	}
	if total > 5*backlogTotal {
		t.Errorf("1000 begin with %d MiB together", total>>20)
	}
	for _, c := range all {
		_ = c.Close()
	}
	near, far := open()
	if size(near) != backlogFirst || size(far) != backlogFirst {
		t.Errorf("when they have gone, one begins with %d and %d KiB", size(near)>>10, size(far)>>10)
	}
	_, _ = near.Close(), far.Close()
}

// TestBacklogOfWhoDoesNotRead: a sender that nothing holds back fills the window of a stream that is not read, and no more.
func TestBacklogOfWhoDoesNotRead(t *testing.T) {
	a, b := wired(t, 1420, nil)
	client, server := connect(t, a, b, v4(2))
	go func() { _, _ = io.CopyN(client, zeros{}, 64<<20) }()
	time.Sleep(300 * time.Millisecond)
	if n := server.(*stream).ep.SocketOptions().GetReceiveBufferSize(); n != backlogFirst {
		t.Errorf("the buffer has %d KiB", n>>10)
	}
	if _, err := io.ReadFull(server, make([]byte, 8<<20)); err != nil {
		t.Fatal(err)
	}
	_, _ = client.Close(), server.Close()
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
