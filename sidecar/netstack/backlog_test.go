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
		name  string
		trip  time.Duration // zero: not known
		every time.Duration // reads of a sixteenth of the first buffer
		reads int
		want  int
	}{
		{"a window each trip", trip, trip / 8, 9, 2 * backlogFirst},
		{"not yet", trip, trip / 8, 8, backlogFirst},
		{"goes on", trip, trip / 8, 9 + 17, 4 * backlogFirst},
		{"until it is enough", trip, 5 * trip / 8, 1000, 2 * backlogFirst},
		{"as little as there is", trip, 2 * trip, 1000, backlogFirst},
		{"a short path", time.Millisecond, trip / 80, 9, 2 * backlogFirst},
		{"nothing known of the path", 0, trip, 9, 2 * backlogFirst},
		{"as much as may be", 0, trip / 1000, 10000, receiveMax},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := new(backlogs)
			b, now := member(all, backlogFirst), time.Now()
			grown := 0
			for range c.reads {
				if b.took(backlogFirst/16, now, after(c.trip)) {
					grown++
				}
				now = now.Add(c.every)
			}
			if b.size != c.want || backlogFirst<<grown != c.want {
				t.Errorf("%d KiB after %d changes, want %d", b.size>>10, grown, c.want>>10)
			}
			if b.end(); all.offered.Load() != 0 {
				t.Errorf("%d KiB are not given back", all.offered.Load()>>10)
			}
		})
	}
}

// member is one of so much, of which nothing waits.
func member(all *backlogs, size int) *backlog {
	b := &backlog{unread: func() int { return 0 }, least: backlogLeast}
	b.begin(all, size, 0)
	all.offered.Add(int64(size - b.size))
	b.size = size
	return b
}

// after says that nothing waits, after such a round trip.
func after(trip time.Duration) func(time.Time) (int, time.Duration) {
	return func(time.Time) (int, time.Duration) { return 0, trip }
}

// TestBacklogRoom: what a stream that reads as fast as can be may have beside others: those that read as well, those of which so much waits, and
// those of which nothing happens.
func TestBacklogRoom(t *testing.T) {
	const trip = time.Millisecond
	for _, c := range []struct {
		name           string
		trip           time.Duration
		read           int // streams
		stalled, waits int // streams, bytes of each
		idle, has      int // streams, bytes of each buffer, and of those that are read
		want           int
	}{
		{"alone", trip, 0, 0, 0, 0, 0, receiveMax},
		{"many are read", trip, 63, 0, 0, 0, 0, backlogTotal / 64},
		{"very many are read", trip, 511, 0, 0, 0, 64 << 10, backlogTotal / 512},
		{"very many are read, and have little", trip, 511, 0, 0, 0, 0, backlogLittle},
		{"many are idle", trip, 0, 0, 0, 1000, backlogLeast, receiveMax},
		{"many are idle that had much", trip, 0, 0, 0, 1000, backlogFirst, backlogFirst},
		{"a few have filled theirs", trip, 0, 7, 4 << 20, 0, 0, backlogTotal / 2 / 8},
		{"a few have filled a part", trip, 0, 3, 4 << 20, 0, 0, backlogTotal - 24<<20},
		{"many have filled theirs", trip, 0, 1000, 64 << 10, 0, backlogFirst, backlogLittle},
		{"many have filled theirs, and others have much", trip, 0, 1000, 64 << 10, 100, backlogFirst, backlogTotal / 2 / 1001},
		{"some have filled theirs, and all is offered", trip, 0, 100, 128 << 10, 600, backlogFirst, backlogTotal / 2 / 701},
		{"a long path", farTrip, 3, 0, 0, 0, 0, receiveMax},
		{"a long path beside many that are read", farTrip, 511, 0, 0, 0, 0, 2 * backlogTotal / 512},
		{"a long path beside as much as may wait", farTrip, 511, 1, unreadTotal, 0, 0, 2 * backlogTotal / 512},
		{"a long path beside more that waits", farTrip, 511, 1, unreadTotal + 1, 0, 0, backlogLittle},
		{"a long path where all is offered", farTrip, 511, 0, 0, 600, backlogFirst, backlogTotal / 512},
		{"a path that is not known", 0, 63, 0, 0, 0, 0, backlogTotal / 64},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := new(backlogs)
			for range c.stalled {
				member(all, backlogLeast).unread = func() int { return c.waits }
			}
			for range c.idle {
				member(all, c.has)
			}
			now := time.Now().Add(time.Second) // since which none of these was read
			var others []*backlog
			for range c.read {
				others = append(others, member(all, max(c.has, backlogLeast)))
			}
			b := member(all, backlogLeast)
			for _, o := range append(others, b) {
				o.busyAt = now
			}
			for range 2000 {
				for _, o := range others {
					o.read.Store(int64(o.size))
				}
				b.took(64<<10, now, after(c.trip))
				now = now.Add(time.Millisecond / 20)
			}
			if b.size != c.want {
				t.Errorf("%d KiB, want %d", b.size>>10, c.want>>10)
			}
		})
	}
}

// TestBacklogStaysFar: a long path of which nothing has been measured for a while is no short one.
func TestBacklogStaysFar(t *testing.T) {
	for trip, want := range map[time.Duration]int{0: receiveMax, farTrip: receiveMax, farTrip - 1: backlogTotal / 512 * 5 / 4} {
		all := new(backlogs)
		b := member(all, receiveMax)
		for range 511 {
			member(all, backlogFirst).busyAt = time.Now().Add(time.Hour)
		}
		now := time.Now()
		b.took(1, now, after(farTrip))
		for range 1000 {
			now = now.Add(time.Second)
			b.took(1<<20, now, after(trip))
		}
		if b.size > want || want == receiveMax && b.size != want || int(all.part.Load()) >= backlogFirst {
			t.Errorf("after a round trip of %s it has %d KiB, and a part of %d", trip, b.size>>10, all.part.Load()>>10)
		}
	}
}

// TestBacklogBesideLittle: streams that say a little now and then are nobody that a total is shared with.
func TestBacklogBesideLittle(t *testing.T) {
	all := new(backlogs)
	var others []*backlog
	for range 1000 {
		others = append(others, member(all, backlogOpen))
	}
	b, now := member(all, backlogOpen), time.Now().Add(time.Second)
	for i := range 10_000 {
		if i%100 == 0 {
			for _, o := range others {
				o.read.Add(100)
			}
		}
		b.took(64<<10, now, after(time.Millisecond))
		now = now.Add(time.Millisecond / 2)
	}
	all.count(now.Add(time.Minute)) // nobody asked for long
	if b.size < 512<<10 || all.part.Load() != backlogTotal {
		t.Errorf("one of many that is read much has %d KiB, and a part of %d", b.size>>10, all.part.Load()>>10)
	}
}

// TestBacklogRoof: streams that are read one after the other, each alone, and then keep what they have, do not have all that each might have alone.
func TestBacklogRoof(t *testing.T) {
	const streams = 1000
	all, now := new(backlogs), time.Now()
	var each []*backlog
	for range streams {
		each = append(each, member(all, backlogOpen))
	}
	for _, b := range each {
		now = now.Add(time.Second)
		for range 1000 {
			b.took(64<<10, now, after(time.Millisecond))
			now = now.Add(time.Millisecond / 20)
		}
	}
	if most := int64(backlogRoof + receiveMax + streams*backlogFirst); all.offered.Load() > most || each[0].size != receiveMax || each[streams-1].size != backlogFirst {
		t.Errorf("%d MiB are offered, want %d at most; the first has %d KiB, the last %d", all.offered.Load()>>20, most>>20, each[0].size>>10, each[streams-1].size>>10)
	}
}

// TestBacklogShrinks: who came early is offered no more than its part once others read as well. What it was promised before always has room.
func TestBacklogShrinks(t *testing.T) {
	all, now := new(backlogs), time.Now()
	b := member(all, receiveMax)
	read := func(n int) (changed bool) {
		now = now.Add(time.Millisecond)
		return b.took(n, now, after(time.Millisecond))
	}
	for range 10_000 {
		if read(64 << 10) {
			t.Fatalf("alone it has %d KiB", b.size>>10)
		}
	}
	var others []*backlog
	for range 511 {
		others = append(others, member(all, 64<<10))
	}
	passed, size := 0, b.size
	for range 10_000 {
		for _, o := range others {
			o.read.Store(int64(o.size))
		}
		passed += 4 << 10
		if !read(4 << 10) {
			continue
		}
		if b.size < size-size/8 || passed < size/8 && size != receiveMax {
			t.Errorf("from %d to %d KiB after %d were read", size>>10, b.size>>10, passed>>10)
		}
		passed, size = 0, b.size
	}
	if part := backlogTotal / 512; b.size > part+part/4 || b.size < part {
		t.Errorf("it ends with %d KiB, want %d", b.size>>10, part>>10)
	}
	if n := all.offered.Load(); n != int64(b.size+511*64<<10) {
		t.Errorf("%d KiB are offered", n>>10)
	}
}

// TestBacklogBesideUnread: what waits is counted now and then, and whoever has ended is not.
func TestBacklogBesideUnread(t *testing.T) {
	all, waits := new(backlogs), unreadTotal+1
	stalled := member(all, backlogLeast)
	stalled.unread = func() int { return waits }
	now := time.Now().Add(time.Second) // since when it was not read
	b := member(all, backlogLeast)
	b.busyAt = now
	read := func() {
		for range 1000 {
			b.took(64<<10, now, after(farTrip))
		}
	}
	const part = backlogTotal - 2*(unreadTotal+1)
	if read(); b.size != receiveMax || int(all.part.Load()) != part {
		t.Errorf("%d KiB and a part of %d beside what waits, want %d and %d", b.size>>10, all.part.Load()>>10, receiveMax>>10, part>>10)
	}
	waits = 0
	all.count(now.Add(countEvery - 1))
	if all.unread.Load() == 0 {
		t.Error("it is counted too often")
	}
	all.count(now.Add(countEvery))
	if n := all.unread.Load(); n != 0 {
		t.Errorf("%d bytes wait when all has been read", n)
	}
	waits = unreadTotal + 1
	stalled.end()
	b.end()
	all.count(now.Add(time.Second))
	if n := all.unread.Load(); n != 0 || all.offered.Load() != 0 {
		t.Errorf("%d bytes wait and %d are offered at the end", n, all.offered.Load())
	}
}

// TestBacklogOfBursts: who reads in one go what has been waiting is not given more to wait, however fast it is.
func TestBacklogOfBursts(t *testing.T) {
	b, now := member(new(backlogs), backlogFirst), time.Now()
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
		{backlogTotal / 4 * 3, backlogLeast, farTrip, backlogFar / 2},
		{backlogTotal, backlogLeast, farTrip, backlogLeast},
		{backlogTotal * 2, 4 * backlogLeast, time.Millisecond, 4 * backlogLeast},
		{backlogTotal / 3 * 2, backlogLeast, farTrip, (backlogTotal - backlogTotal/3*2) / 16},
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

// TestPromisedIsTakenWhileShrinking: a peer fills the window after each read, of a buffer that becomes smaller as others come. All that it was ever
// allowed to send is taken.
func TestPromisedIsTakenWhileShrinking(t *testing.T) {
	r, app := openRaw(t, 0)
	all, p := &r.s.backlogs, app.(*stream).flight.path
	p.mu.Lock()
	p.trip, p.measuredAt = time.Millisecond, time.Now() // however long the handshake took
	p.mu.Unlock()
	app.(*stream).backlog.far = false
	for range 1100 {
		member(all, backlogOpen).busyAt = time.Now().Add(time.Hour)
	}
	fill := func() {
		sent := false
		for reply := r.next(0); reply != nil; reply = r.next(0) {
		}
		for int32(r.edge-r.seq) >= 1340 { // as any TCP: none sends less because of the window
			r.send(r.seq, header.TCPFlagAck, make([]byte, 1340))
			r.seq += 1340
			sent = true
		}
		for until := time.Now().Add(5 * time.Second); sent; {
			reply := r.next(time.Until(until))
			if reply == nil {
				t.Fatalf("of a buffer of %d KiB what was promised is not acknowledged", app.(*stream).backlog.size>>10)
			}
			if reply.AckNumber() == r.seq {
				return
			}
		}
	}
	first := app.(*stream).backlog.size
	for range 2000 {
		fill()
		if _, err := io.ReadFull(app, make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		if n := app.(*stream).backlog.size; n <= backlogOpen+backlogOpen/4 {
			return
		}
	}
	t.Errorf("a buffer of %d KiB has %d", first>>10, app.(*stream).backlog.size>>10)
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
	if first, last := size(all[1]), size(all[len(all)-1]); first < backlogFirst || last != backlogOpen {
		t.Errorf("the first of 1000 begins with %d KiB, the last with %d", first>>10, last>>10)
	}
	if n := b.backlogs.offered.Load(); n > backlogTotal+1000*backlogOpen {
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
