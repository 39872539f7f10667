package resolve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// wants looks a name up and compares; no address wanted: it must not be found.
func (b *bench) wants(t *testing.T, name string, want ...string) {
	t.Helper()
	got, err := b.Lookup(t.Context(), name)
	var text []string
	for _, a := range got {
		text = append(text, a.String())
	}
	if !slices.Equal(text, want) || (err == nil) != (len(want) > 0) {
		t.Errorf("%s is %v, %v; want %v", name, text, err, want)
	}
}

// Whatever a server says of db.corp.internal, what is found is behind an outside peer, and led to by this answer.
func TestAnswers(t *testing.T) {
	const db = "db.corp.internal"
	of := knows
	chain := func(n int) (out []record) {
		for i := range n {
			out = append(out, record{map[bool]string{true: db, false: fmt.Sprintf("a%d.x", i)}[i == 0], "CNAME", fmt.Sprintf("a%d.x", i+1), 60})
		}
		return append(out, record{fmt.Sprintf("a%d.x", n), "A", "192.168.10.20", 60})
	}
	for name, c := range map[string]struct {
		server server
		want   []string
	}{
		"one":                 {of(record{db, "A", "192.168.10.20", 60}), []string{"192.168.10.20"}},
		"IPv6 first":          {of(record{db, "A", "192.168.10.20", 60}, record{db, "AAAA", "2001:db8::20", 60}), []string{"2001:db8::20", "192.168.10.20"}},
		"in their order":      {of(record{db, "A", "192.168.10.22", 60}, record{db, "A", "192.168.10.20", 60}), []string{"192.168.10.22", "192.168.10.20"}},
		"one twice":           {of(record{db, "A", "192.168.10.22", 60}, record{db, "A", "192.168.10.22", 60}), []string{"192.168.10.22"}},
		"in capitals":         {of(record{"DB.Corp.internal", "A", "192.168.10.20", 60}), []string{"192.168.10.20"}},
		"by an alias":         {of(record{db, "CNAME", "x.other", 60}, record{"x.other", "A", "192.168.10.20", 60}), []string{"192.168.10.20"}},
		"by 8 aliases":        {of(chain(8)...), []string{"192.168.10.20"}},
		"by 9 aliases":        {of(chain(9)...), nil},
		"in a circle":         {of(record{db, "CNAME", "x", 60}, record{"x", "CNAME", db, 60}), nil},
		"an alias of itself":  {of(record{db, "CNAME", db, 60}), nil},
		"an alias to nowhere": {of(record{db, "CNAME", "x.corp.internal", 60}), nil},
		"another's address":   {of(record{"x.corp.internal", "A", "192.168.10.20", 60}), nil},
		"nothing":             {of(), nil},
		"no such name":        {says(dnsmessage.RCodeNameError), nil},
		"some left out":       {of(record{db, "A", "127.0.0.1", 60}, record{db, "A", "192.168.10.20", 60}, record{db, "A", "10.77.0.5", 60}), []string{"192.168.10.20"}},
		"loopback":            {of(record{db, "A", "127.0.0.1", 60}, record{db, "AAAA", "::1", 60}), nil},
		"metadata":            {of(record{db, "A", "169.254.169.254", 60}, record{db, "AAAA", "fe80::1", 60}), nil},
		"unspecified":         {of(record{db, "A", "0.0.0.0", 60}, record{db, "AAAA", "::", 60}), nil},
		"multicast":           {of(record{db, "A", "224.0.0.1", 60}, record{db, "AAAA", "ff02::1", 60}), nil},
		"in disguise":         {of(record{db, "AAAA", "::ffff:192.168.10.20", 60}, record{db, "AAAA", "::192.168.10.20", 60}), nil},
		"a member":            {of(record{db, "A", "10.77.0.5", 60}, record{db, "AAAA", "fd07::5", 60}), nil},
		"behind nobody":       {of(record{db, "A", "10.244.0.9", 60}, record{db, "AAAA", "2001:db9::1", 60}), nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, testConfig())
				b.net.serve(first, c.server)
				b.wants(t, db, c.want...)
			})
		})
	}
}

// A site whose range is mapped answers with what its hosts have there; what is used is what they are inside the tunnel.
func TestMappedSite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testConfig()
		c.Zones[0].Mappings = []wire.Mapping{
			{Real: netip.MustParsePrefix("10.40.16.0/20"), Seen: netip.MustParsePrefix("192.168.32.0/20")},
			{Real: netip.MustParsePrefix("fd00:9::/64"), Seen: netip.MustParsePrefix("2001:db8:0:7::/64")}}
		b := newBench(t, c)
		b.net.serve(first, knows(record{"db.corp.internal", "A", "10.40.18.7", 1}, record{"db.corp.internal", "AAAA", "fd00:9::7", 1}))
		b.wants(t, "db.corp.internal", "2001:db8:0:7::7", "192.168.34.7")
		b.net.serve(first, knows(record{"far.corp.internal", "A", "192.168.50.1", 1}, record{"far.corp.internal", "A", "10.40.32.7", 1}))
		b.wants(t, "far.corp.internal", "192.168.50.1")
	})
}

// A peer with a route to everything is no way to what no tunnel carries.
func TestRouteToEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testConfig()
		c.Within = prefixes("0.0.0.0/0", "::/0")
		b := newBench(t, c)
		for i, bad := range []string{"127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "255.255.255.255", "10.77.0.1"} {
			b.net.serve(first, knows(record{fmt.Sprintf("n%d.corp.internal", i), "A", bad, 1}))
			b.wants(t, fmt.Sprintf("n%d.corp.internal", i))
		}
		for i, bad := range []string{"::1", "fe80::1", "ff02::1", "::", "::ffff:192.168.10.20", "::127.0.0.1", "fd07::1"} {
			b.net.serve(first, knows(record{fmt.Sprintf("m%d.corp.internal", i), "AAAA", bad, 1}))
			b.wants(t, fmt.Sprintf("m%d.corp.internal", i))
		}
		b.net.serve(first, knows(record{"db.corp.internal", "A", "203.0.113.9", 1}))
		b.wants(t, "db.corp.internal", "203.0.113.9")
	})
}

// What a network may send in place of an answer is passed over, or given up.
func TestStray(t *testing.T) {
	good := func(q dnsmessage.Message) dnsmessage.Message {
		return reply(q, record{"db.corp.internal", "A", "192.168.10.20", 60})
	}
	for name, spoil := range map[string]func(*dnsmessage.Message){
		"id":         func(m *dnsmessage.Message) { m.ID++ },
		"a question": func(m *dnsmessage.Message) { m.Response = false },
		"opcode":     func(m *dnsmessage.Message) { m.OpCode = 5 },
		"type":       func(m *dnsmessage.Message) { m.Questions[0].Type = dnsmessage.TypeMX },
		"class":      func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS },
		"name":       func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName("dbx.corp.internal.") },
		"none":       func(m *dnsmessage.Message) { m.Questions = nil },
		"twice":      func(m *dnsmessage.Message) { m.Questions = append(m.Questions, m.Questions[0]) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := testConfig()
				c.IPv6, c.Zones[0].Servers = false, c.Zones[0].Servers[:1]
				b := newBench(t, c)
				forged := func(q dnsmessage.Message) dnsmessage.Message {
					m := reply(q, record{"db.corp.internal", "A", "192.168.10.66", 60})
					m.Questions = slices.Clone(m.Questions)
					spoil(&m)
					return m
				}
				b.net.serve(first, func(q dnsmessage.Message, _ bool) []dnsmessage.Message {
					return []dnsmessage.Message{forged(q), good(q)}
				})
				b.wants(t, "db.corp.internal", "192.168.10.20")
				b.net.serve(first, func(q dnsmessage.Message, _ bool) []dnsmessage.Message {
					return slices.Repeat([]dnsmessage.Message{forged(q)}, maxStray+1)
				})
				b.wants(t, "other.corp.internal")
			})
		})
	}
}

// The next server is asked when one does not answer, or cannot; those that did not are asked last for a while.
func TestServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testConfig()
		c.IPv6 = false
		b := newBench(t, c)
		b.net.serve(first, silent)
		b.net.serve(second, says(dnsmessage.RCodeServerFailure))
		b.net.serve(third, knows(record{"a.corp.internal", "A", "192.168.10.20", 1}, record{"b.corp.internal", "A", "192.168.10.21", 1}))
		began := time.Now()
		b.wants(t, "a.corp.internal", "192.168.10.20")
		if took := time.Since(began); took != rounds[0] {
			t.Errorf("the silent one took %s", took)
		}
		if got := len(b.net.questions()); got != 3 {
			t.Errorf("%d were asked", got)
		}
		b.wants(t, "b.corp.internal", "192.168.10.21")
		if got := b.net.questions(); !slices.Equal(got, []string{third.Addr().String() + " b.corp.internal. A"}) {
			t.Errorf("afterwards %v were asked", got)
		}
		time.Sleep(sickness)
		b.wants(t, "a.corp.internal", "192.168.10.20")
		if got := b.net.questions(); !strings.HasPrefix(got[0], first.Addr().String()) {
			t.Errorf("later %v were asked", got)
		}

		b.net.serve(third, silent)
		began = time.Now()
		b.wants(t, "c.corp.internal")
		if took := time.Since(began); took > budget {
			t.Errorf("all silent took %s", took)
		}
		if _, err := b.Lookup(t.Context(), "c.corp.internal"); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("all silent: %v", err)
		}
		if c := b.Counts(); c.Found != 3 || c.Failed != 1 || c.NotFound != 0 {
			t.Errorf("%+v", c)
		}
	})
}

// One family that nobody answers for does not hold up the other.
func TestOneFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, testConfig())
		b.net.serve(first, func(q dnsmessage.Message, _ bool) []dnsmessage.Message {
			if q.Questions[0].Type == dnsmessage.TypeAAAA {
				return nil
			}
			return []dnsmessage.Message{reply(q, record{"db.corp.internal", "A", "192.168.10.20", 60})}
		})
		began := time.Now()
		b.wants(t, "db.corp.internal", "192.168.10.20")
		if took := time.Since(began); took > grace {
			t.Errorf("it took %s", took)
		}
	})
}

// A name that is in no zone is asked of nobody, one in two zones of the longer one's servers alone, and one whose zone has none of nobody.
func TestZones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, testConfig())
		for _, at := range []netip.AddrPort{first, second, third} {
			b.net.serve(at, knows(record{"x.lab.corp.internal", "A", "192.168.10.1", 60}, record{"x.dark.corp.internal", "A", "192.168.10.1", 60}))
		}
		b.net.serve(longer, knows(record{"x.lab.corp.internal", "A", "192.168.11.1", 60}))
		for name, want := range map[string]error{"corp": ErrNoZone, "acorp.internal": ErrNoZone, "example.com": ErrNoZone, "": ErrNoZone, "db.corp.internal.": ErrNoZone,
			"x.dark.corp.internal": ErrNoAnswer} {
			if got, err := b.Lookup(t.Context(), name); !errors.Is(err, want) {
				t.Errorf("%q is %v, %v", name, got, err)
			}
			if b.Holds(name) != !errors.Is(want, ErrNoZone) {
				t.Errorf("holds %q: %t", name, b.Holds(name))
			}
		}
		if got := b.net.questions(); len(got) > 0 {
			t.Errorf("%v were asked", got)
		}
		b.wants(t, "x.lab.corp.internal", "192.168.11.1")
		for _, q := range b.net.questions() {
			if !strings.HasPrefix(q, longer.Addr().String()) {
				t.Errorf("%s was asked", q)
			}
		}
		b.wants(t, strings.Repeat("a.", 120)+"corp.internal") // 253 bytes, no such name
		b.wants(t, strings.Repeat("a", 64)+".corp.internal")  // not a name
		b.wants(t, "a..corp.internal")
	})
}

// What is found is kept as long as its server says, within bounds.
func TestLifetimes(t *testing.T) {
	for name, c := range map[string]struct {
		server server
		keeps  time.Duration
	}{
		"as it says":      {knows(record{"db.corp.internal", "A", "192.168.10.20", 30}), 30 * time.Second},
		"none":            {knows(record{"db.corp.internal", "A", "192.168.10.20", 0}), leastTTL},
		"a year":          {knows(record{"db.corp.internal", "A", "192.168.10.20", 31536000}), mostTTL},
		"negative":        {knows(record{"db.corp.internal", "A", "192.168.10.20", 1 << 31}), leastTTL},
		"of the alias":    {knows(record{"db.corp.internal", "CNAME", "x", 20}, record{"x", "A", "192.168.10.20", 30}), 20 * time.Second},
		"of two":          {knows(record{"db.corp.internal", "A", "192.168.10.20", 30}, record{"db.corp.internal", "A", "192.168.10.21", 10}), 10 * time.Second},
		"no such name":    {says(dnsmessage.RCodeNameError), noneTTL},
		"what is refused": {knows(record{"db.corp.internal", "A", "127.0.0.1", 300}), noneTTL},
		"nobody answers":  {says(dnsmessage.RCodeRefused), failedTTL},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, testConfig())
				b.net.serve(first, c.server)
				one, _ := b.Lookup(t.Context(), "db.corp.internal")
				b.net.questions()
				time.Sleep(c.keeps - time.Millisecond)
				two, _ := b.Lookup(t.Context(), "db.corp.internal")
				known, ok := b.Known("db.corp.internal")
				if got := b.net.questions(); len(got) > 0 || !ok || !slices.Equal(one, two) || !slices.Equal(one, known) {
					t.Errorf("before it is over %v were asked, %v became %v", got, one, two)
				}
				time.Sleep(2 * time.Millisecond)
				if _, ok := b.Known("db.corp.internal"); ok {
					t.Error("it is known although it is over")
				}
				_, _ = b.Lookup(t.Context(), "db.corp.internal")
				if got := b.net.questions(); len(got) == 0 {
					t.Error("afterwards nobody was asked")
				}
			})
		})
	}
}

// All who ask for one name at once wait for one answer, and none longer than he wants to.
func TestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testConfig()
		c.IPv6 = false
		b := newBench(t, c)
		b.net.serve(first, func(q dnsmessage.Message, _ bool) []dnsmessage.Message {
			time.Sleep(500 * time.Millisecond)
			return []dnsmessage.Message{reply(q, record{"db.corp.internal", "A", "192.168.10.20", 60})}
		})
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { b.wants(t, "db.corp.internal", "192.168.10.20") })
		}
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := b.Lookup(ctx, "db.corp.internal"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("who does not wait: %v", err)
			}
		})
		all.Wait()
		if got := b.net.questions(); len(got) != 1 {
			t.Errorf("%v were asked", got)
		}
	})
}

// Another configuration forgets what was found under the one before, also for who waits; the same one does not.
func TestSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, testConfig())
		b.net.serve(first, knows(record{"db.corp.internal", "A", "192.168.10.20", 60}))
		b.wants(t, "db.corp.internal", "192.168.10.20")
		b.net.questions()
		b.Set(testConfig())
		b.wants(t, "db.corp.internal", "192.168.10.20")
		if got := b.net.questions(); len(got) > 0 {
			t.Errorf("%v were asked", got)
		}
		narrow := testConfig()
		narrow.Within = prefixes("192.168.11.0/24")
		b.Set(narrow)
		b.wants(t, "db.corp.internal")

		b.Set(testConfig())
		b.net.serve(first, func(q dnsmessage.Message, _ bool) []dnsmessage.Message {
			time.Sleep(500 * time.Millisecond)
			return []dnsmessage.Message{reply(q, record{"db.corp.internal", "A", "192.168.10.20", 60})}
		})
		time.AfterFunc(100*time.Millisecond, func() { b.Set(narrow) })
		b.wants(t, "db.corp.internal")
		b.Set(Config{})
		if _, err := b.Lookup(t.Context(), "db.corp.internal"); !errors.Is(err, ErrNoZone) {
			t.Errorf("without a zone: %v", err)
		}
	})
}

// What is kept and what is asked at once is bounded, and whoever floods it with names gets errors.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, testConfig())
		b.net.serve(first, says(dnsmessage.RCodeNameError))
		for i := range maxNames + 50 {
			b.wants(t, fmt.Sprintf("n%d.corp.internal", i))
		}
		s := b.state.Load()
		if n := len(s.names); n > maxNames {
			t.Errorf("%d names are kept", n)
		}
		for _, at := range []netip.AddrPort{first, second, third} {
			b.net.serve(at, silent)
		}
		var all sync.WaitGroup
		var mu sync.Mutex
		busy := 0
		for i := range 2 * maxPending {
			all.Go(func() {
				if _, err := b.Lookup(t.Context(), fmt.Sprintf("m%d.corp.internal", i)); errors.Is(err, errBusy) {
					mu.Lock()
					busy++
					mu.Unlock()
				}
			})
		}
		all.Wait()
		if busy != maxPending {
			t.Errorf("%d were refused", busy)
		}
		if s.mu.Lock(); s.pending != 0 {
			t.Errorf("%d are left", s.pending)
		}
		s.mu.Unlock()
	})
}

// Closing ends what is under way at once.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, testConfig())
		b.net.serve(first, silent)
		began := time.Now()
		time.AfterFunc(100*time.Millisecond, b.Close)
		b.wants(t, "db.corp.internal")
		if took := time.Since(began); took != 100*time.Millisecond {
			t.Errorf("it took %s", took)
		}
		time.Sleep(time.Minute)
		if _, err := b.Lookup(t.Context(), "db.corp.internal"); !errors.Is(err, errClosed) {
			t.Errorf("closed: %v", err)
		}
	})
	r := New(slog.New(slog.DiscardHandler))
	r.Set(testConfig())
	defer r.Close()
	if _, err := r.Lookup(t.Context(), "db.corp.internal"); !errors.Is(err, errNotUp) {
		t.Errorf("before the data path is up: %v", err)
	}
}

// The log says what was left out, seldom.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, testConfig())
		b.net.serve(first, knows(record{"a.corp.internal", "A", "10.77.0.5", 1}, record{"b.corp.internal", "A", "10.77.0.5", 1}))
		b.wants(t, "a.corp.internal")
		b.wants(t, "b.corp.internal")
		if text := b.log.String(); strings.Count(text, "left out") != 1 || !strings.Contains(text, "a.corp.internal") || !strings.Contains(text, "10.77.0.5") {
			t.Error(text)
		}
		if c := b.Counts(); c.LeftOut != 2 || c.NotFound != 2 {
			t.Errorf("%+v", c)
		}
	})
}
