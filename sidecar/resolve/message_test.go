package resolve

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"golang.org/x/net/dns/dnsmessage"
)

// An answer that does not fit a datagram is asked for by TCP.
func TestTruncated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, testConfig())
		b.net.serve(first, func(q dnsmessage.Message, stream bool) []dnsmessage.Message {
			m := knows(record{"db.corp.internal", "A", "192.168.10.20", 60})(q, stream)[0]
			if !stream {
				m.Truncated, m.Answers = true, nil
			}
			return []dnsmessage.Message{m}
		})
		b.wants(t, "db.corp.internal", "192.168.10.20")
		b.net.serve(first, func(q dnsmessage.Message, _ bool) []dnsmessage.Message { // without end
			m := reply(q)
			m.Truncated = true
			return []dnsmessage.Message{m}
		})
		b.wants(t, "other.corp.internal")
	})
}

// Ids are not the same each time.
func TestIDs(t *testing.T) {
	seen := map[uint16]bool{}
	for range 100 {
		q, err := newQuestion("db.corp.internal", dnsmessage.TypeA)
		if err != nil {
			t.Fatal(err)
		}
		seen[q.id] = true
	}
	if len(seen) < 90 {
		t.Errorf("%d ids of 100 questions", len(seen))
	}
}

// A record that is shorter or longer than an address is none.
func TestLengths(t *testing.T) {
	q, err := newQuestion("db.corp.internal", dnsmessage.TypeA)
	if err != nil {
		t.Fatal(err)
	}
	m := reply(dnsmessage.Message{Header: dnsmessage.Header{ID: q.id}, Questions: []dnsmessage.Question{q.Question}}, record{"db.corp.internal", "A", "192.168.10.20", 60})
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if a, err := q.read(b); err != nil || !slices.Equal(a.addrs, []netip.Addr{netip.MustParseAddr("192.168.10.20")}) {
		t.Errorf("%v, %v", a, err)
	}
	for _, n := range []byte{0, 3, 5, 16, 255} {
		wrong := slices.Clone(b)
		wrong[len(wrong)-5] = n
		if a, err := q.read(append(wrong, make([]byte, 300)...)); err == nil {
			t.Errorf("an address of %d bytes is %v", n, a)
		}
	}
}

// FuzzRead: nothing that comes is anything but an error, or addresses in bounds.
func FuzzRead(f *testing.F) {
	q, err := newQuestion("db.corp.internal", dnsmessage.TypeA)
	if err != nil {
		f.Fatal(err)
	}
	q.id = 0x7a7a
	asked := dnsmessage.Message{Header: dnsmessage.Header{ID: q.id}, Questions: []dnsmessage.Question{q.Question}}
	for _, records := range [][]record{nil, {{"db.corp.internal", "A", "192.168.10.20", 60}}, {{"db.corp.internal", "CNAME", "x", 1}, {"x", "A", "10.0.0.1", 0}},
		{{"db.corp.internal", "CNAME", "db.corp.internal", 1}}, {{"db.corp.internal", "AAAA", "::1", 1}}} {
		m := reply(asked, records...)
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := q.read(b)
		if err != nil && (len(a.addrs) > 0 || a.truncated) {
			t.Fatalf("%+v beside %v", a, err)
		}
		if len(a.addrs) > maxRecords || a.ttl < 0 || a.ttl > mostTTL {
			t.Fatalf("%d addresses for %s", len(a.addrs), a.ttl)
		}
		for _, addr := range a.addrs {
			if !addr.Is4() {
				t.Fatalf("%s was not asked for", addr)
			}
		}
	})
}
