package netstack

import (
	"context"
	"io"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// TestBacklog: a buffer grows while windows are read faster than some round trips take, and not otherwise.
func TestBacklog(t *testing.T) {
	const trip = 10 * time.Millisecond
	for _, c := range []struct {
		name   string
		trip   time.Duration // zero: not known
		others int64         // what they have
		every  time.Duration // reads of a sixteenth of the first buffer
		reads  int
		want   int
	}{
		{"a window each trip", trip, 0, trip / 8, 9, 2 * backlogFirst},
		{"not yet", trip, 0, trip / 8, 8, backlogFirst},
		{"goes on", trip, 0, trip / 8, 9 + 17, 4 * backlogFirst},
		{"whatever others have", trip, backlogTotal, trip / 8, 9 + 17, 4 * backlogFirst},
		{"until it is enough", trip, 0, 5 * trip / 8, 1000, 2 * backlogFirst},
		{"as little as there is", trip, 0, 2 * trip, 1000, backlogFirst},
		{"nothing known of the path", 0, 0, trip, 9, 2 * backlogFirst},
		{"nothing known, and others have much", 0, backlogTotal, trip, 1000, backlogFirst},
		{"as much as may be", 0, 0, trip / 1000, 10000, receiveMax},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := crowd(64)
			all.offered.Store(c.others + backlogFirst)
			b, now := backlog{size: backlogFirst, all: all}, time.Now()
			grown := 0
			for range c.reads {
				if b.took(backlogFirst/16, now, func(time.Time) (int, time.Duration) { return 0, c.trip }) {
					grown++
				}
				now = now.Add(c.every)
			}
			if b.size != c.want || backlogFirst<<grown != c.want {
				t.Errorf("%d KiB after %d changes, want %d", b.size>>10, grown, c.want>>10)
			}
			if b.end(); all.offered.Load() != c.others {
				t.Errorf("%d KiB are not given back", (all.offered.Load()-c.others)>>10)
			}
		})
	}
}

// crowd is n streams that have nothing.
func crowd(n int) *backlogs {
	all := &backlogs{each: map[*backlog]struct{}{}}
	for range n {
		all.each[&backlog{unread: func() int { return 0 }}] = struct{}{}
	}
	return all
}

// TestBacklogRoom: what a stream on a path that is known may have beside others: of so many streams, that are offered so much, while so much waits to be read.
func TestBacklogRoom(t *testing.T) {
	for _, c := range []struct {
		name    string
		streams int
		offered int64
		waits   int
		want    int
	}{
		{"alone", 0, 0, 0, receiveMax},
		{"many are idle", 1000, 40 << 20, 0, receiveMax},
		{"much waits, and there are few", 7, 30 << 20, unreadTotal + 1, backlogTotal / 8},
		{"much waits, and there are many", 1000, 20 << 20, unreadTotal + 1, backlogLittle},
		{"much waits, and many have much", 1000, 40 << 20, unreadTotal + 1, backlogLeast},
		{"as much as may wait", 1000, 40 << 20, unreadTotal, receiveMax},
		{"all is offered", 1000, backlogRoof, 0, backlogFirst},
	} {
		all := crowd(c.streams)
		if c.waits > 0 {
			all.each[&backlog{unread: func() int { return c.waits }}] = struct{}{}
		}
		all.offered.Store(c.offered)
		b, now := backlog{size: backlogLeast, all: all}, time.Now()
		for range 10_000 {
			b.took(4096, now, func(time.Time) (int, time.Duration) { return 0, time.Millisecond })
		}
		if b.size != c.want {
			t.Errorf("%s: %d KiB, want %d", c.name, b.size>>10, c.want>>10)
		}
	}
}

// TestBacklogBesideUnread: what waits is counted now and then, and whoever has ended is not.
func TestBacklogBesideUnread(t *testing.T) {
	all, waits := crowd(64), unreadTotal+1
	stalled := backlog{unread: func() int { return waits }}
	stalled.begin(all, backlogLeast, time.Millisecond)
	b := backlog{unread: func() int { return 0 }}
	b.begin(all, backlogLeast, time.Millisecond)
	now := time.Now()
	read := func() {
		for range 1000 {
			b.took(64<<10, now, func(time.Time) (int, time.Duration) { return 0, time.Millisecond })
		}
	}
	if read(); b.size != backlogFirst {
		t.Errorf("%d KiB beside too much that waits, want %d", b.size>>10, backlogFirst>>10)
	}
	waits--
	if read(); b.size != backlogFirst {
		t.Error("it is counted too often")
	}
	now = now.Add(countEvery)
	if read(); b.size != receiveMax {
		t.Errorf("%d KiB when it has been read, want %d", b.size>>10, receiveMax>>10)
	}
	waits = unreadTotal + 1
	stalled.end()
	b.end()
	if n := all.waiting(now.Add(time.Second)); n != 0 || all.offered.Load() != 0 {
		t.Errorf("%d bytes wait and %d are offered at the end", n, all.offered.Load())
	}
}

// TestBacklogOfBursts: who reads in one go what has been waiting is not given more to wait, however fast it is.
func TestBacklogOfBursts(t *testing.T) {
	b, now := backlog{size: backlogFirst, all: new(backlogs)}, time.Now()
	for range 100 {
		for left := b.size / 2; left > 0; left -= 4096 {
			if b.took(4096, now, func(time.Time) (int, time.Duration) { return left - 4096, time.Millisecond }) {
				t.Fatal("the buffer grows")
			}
		}
		now = now.Add(time.Second)
	}
}

// TestBacklogBegins: with more on a long path, with less where others have much, and never with less than the peer was promised.
func TestBacklogBegins(t *testing.T) {
	for _, c := range []struct {
		others int64
		has    int
		trip   time.Duration
		want   int
	}{
		{0, backlogLeast, time.Millisecond, backlogFirst},
		{0, backlogLeast, 0, backlogFirst},
		{0, backlogLeast, farTrip, backlogFar},
		{backlogTotal / 2, backlogLeast, farTrip, backlogFar / 2},
		{backlogTotal, backlogLeast, farTrip, backlogLeast},
		{backlogTotal * 2, 4 * backlogLeast, time.Millisecond, 4 * backlogLeast},
		{backlogTotal / 3, backlogLeast, farTrip, backlogTotal * 2 / 3 / 16},
	} {
		all := new(backlogs)
		all.offered.Store(c.others)
		b := backlog{unread: func() int { return 0 }}
		if b.begin(all, c.has, c.trip); b.size != c.want || all.offered.Load() != c.others+int64(c.want) {
			t.Errorf("%+v: %d", c, b.size)
		}
		now := time.Now()
		for range 1 << 12 {
			b.took(64<<10, now, func(time.Time) (int, time.Duration) { return 0, time.Millisecond })
		}
		if b.size != receiveMax || all.offered.Load() != c.others+receiveMax {
			t.Errorf("%+v: at most %d", c, b.size)
		}
	}
}

// TestRoundTripGrowsOld: what was measured long ago is not taken for known.
func TestRoundTripGrowsOld(t *testing.T) {
	p, now := &path{}, time.Now()
	if trip := p.bare(now); trip != 0 {
		t.Errorf("%s, which nobody has measured", trip)
	}
	p.measured(3*time.Millisecond, now)
	if trip := p.bare(now.Add(pathRenewal / 2)); trip != 3*time.Millisecond {
		t.Errorf("%s a little later", trip)
	}
	if trip := p.bare(now.Add(pathRenewal)); trip != 0 {
		t.Errorf("%s, which was measured long ago", trip)
	}
}

// TestPromisedIsTaken: a peer sends all that it was promised when the connection was made, beside others that have much. It is taken, though
// nobody reads it.
func TestPromisedIsTaken(t *testing.T) {
	r, _ := openRaw(t, backlogTotal)
	for end := r.edge; r.seq != end; {
		n := min(1340, end-r.seq)
		r.send(r.seq, header.TCPFlagAck, make([]byte, n))
		r.seq += n
	}
	for until := time.Now().Add(5 * time.Second); ; {
		reply := r.next(time.Until(until))
		if reply == nil {
			t.Fatal("what was promised to be taken is not acknowledged")
		}
		if reply.AckNumber() == r.seq {
			return
		}
	}
}

// TestBacklogBesideOthers: a stream begins with less where others have much, and with as much as the first when they have gone.
func TestBacklogBesideOthers(t *testing.T) {
	a, b := wired(t, 1420, nil)
	accepted := accept(t, b)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	size := func(s datapath.Stream) int { return int(s.(*stream).ep.SocketOptions().GetReceiveBufferSize()) }
	open := func() (near, far datapath.Stream) {
		near, err := a.DialTCP(ctx, netip.AddrPortFrom(v4(2), 80))
		if err != nil {
			t.Fatal(err)
		}
		return near, <-accepted
	}
	var all []datapath.Stream
	for range 1000 {
		near, far := open()
		all = append(all, near, far)
	}
	if first, last := size(all[1]), size(all[len(all)-1]); first < backlogFirst || last != backlogLeast {
		t.Errorf("the first of 1000 begins with %d KiB, the last with %d", first>>10, last>>10)
	}
	if n := b.backlogs.offered.Load(); n > backlogTotal+1000*backlogLeast {
		t.Errorf("1000 begin with %d MiB together", n>>20)
	}
	for _, c := range all {
		_ = c.Close()
	}
	if n := b.backlogs.offered.Load(); n != 0 {
		t.Errorf("%d bytes are taken for streams' that are closed", n)
	}
	near, far := open()
	if size(near) < backlogFirst || size(far) < backlogFirst {
		t.Errorf("when they have gone, one begins with %d and %d KiB", size(near)>>10, size(far)>>10)
	}
	_, _ = near.Close(), far.Close()
}

// TestBacklogOfWhoDoesNotRead: a sender that nothing holds back fills the window of a stream that is not read, and no more.
func TestBacklogOfWhoDoesNotRead(t *testing.T) {
	a, b := wired(t, 1420, nil)
	client, server := connect(t, a, b, v4(2))
	o := server.(*stream).ep.SocketOptions()
	before := o.GetReceiveBufferSize()
	go func() { _, _ = io.CopyN(client, zeros{}, 64<<20) }()
	fills(t, b, server)
	if n := o.GetReceiveBufferSize(); n != before {
		t.Errorf("the buffer had %d KiB and has %d", before>>10, n>>10)
	}
	if n, _ := server.(*stream).waits(time.Now()); n < int(before)/4 || n > int(before) {
		t.Errorf("%d KiB wait, in a buffer of %d", n>>10, before>>10)
	}
	if _, err := io.ReadFull(server, make([]byte, 8<<20)); err != nil {
		t.Fatal(err)
	}
	_, _ = client.Close(), server.Close()
}

// fills returns when something waits to be read and nothing has come any more for a while.
func fills(t *testing.T, s *Stack, c datapath.Stream) {
	t.Helper()
	const quiet = 100 * time.Millisecond
	until, since := time.Now().Add(30*time.Second), time.Now()
	for last := s.Stats().RxPackets; ; time.Sleep(quiet / 10) {
		waits, _ := c.(*stream).waits(time.Now())
		if now := s.Stats().RxPackets; now != last || waits == 0 {
			last, since = now, time.Now()
		}
		if time.Since(since) > quiet {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%d bytes wait, and it does not end", waits)
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
