package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func addr(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func testZone() Zone {
	many := make([]netip.Addr, 100)
	for i := range many {
		many[i] = netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i)})
	}
	return Zone{Domain: "main.tunnel", Hosts: map[string][]netip.Addr{"web": addr("10.77.0.1", "fd00::1"), "six": addr("fd00::2"), "nobody": nil, "many": many}}
}

func listen(t *testing.T) *Server {
	t.Helper()
	s, err := Listen(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestResolver asks with Go's own resolver, by UDP and by TCP.
func TestResolver(t *testing.T) {
	s := listen(t)
	for _, network := range []string{"udp", "tcp"} {
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, s.Addr().String())
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		s.Set(testZone())
		for name, want := range map[string][]netip.Addr{"web.main.tunnel.": addr("10.77.0.1", "fd00::1"), "WEB.Main.Tunnel.": addr("10.77.0.1", "fd00::1"), "six.main.tunnel.": addr("fd00::2")} {
			got, err := r.LookupNetIP(ctx, "ip", name)
			slices.SortFunc(got, netip.Addr.Compare)
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %s is %v, %v", network, name, got, err)
			}
		}
		if got, err := r.LookupNetIP(ctx, "ip", "many.main.tunnel."); err != nil || len(got) != maxAnswers {
			t.Errorf("%s: of many there are %d, %v", network, len(got), err)
		}
		for _, name := range []string{"nobody.main.tunnel.", "none.main.tunnel.", "web.other.tunnel.", "webmain.tunnel.", "kubernetes.default.svc.cluster.local.", "a.web.main.tunnel."} {
			var none *net.DNSError
			if got, err := r.LookupNetIP(ctx, "ip", name); !errors.As(err, &none) {
				t.Errorf("%s: %s is %v, %v", network, name, got, err)
			}
		}
		s.Set(Zone{})
		if got, err := r.LookupNetIP(ctx, "ip", "web.main.tunnel."); err == nil {
			t.Errorf("%s: with no zone it is %v", network, got)
		}
	}
}

func ask(t *testing.T, z Zone, name string, typ dnsmessage.Type, change func(*dnsmessage.Message)) dnsmessage.Message {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}}}
	if change != nil {
		change(&m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var reply dnsmessage.Message
	if err := reply.Unpack(z.Answer(b, maxMessage)); err != nil {
		t.Fatal(err)
	}
	if reply.ID != 7 || !reply.Response || reply.RecursionAvailable {
		t.Errorf("header %+v", reply.Header)
	}
	return reply
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name string
		typ  dnsmessage.Type
		want string // code, answers, authorities, authoritative
	}{
		{"web.main.tunnel.", dnsmessage.TypeA, "RCodeSuccess 1 0 true"},
		{"web.main.tunnel.", dnsmessage.TypeAAAA, "RCodeSuccess 1 0 true"},
		{"web.main.tunnel.", dnsmessage.TypeALL, "RCodeSuccess 2 0 true"},
		{"six.main.tunnel.", dnsmessage.TypeA, "RCodeSuccess 0 1 true"},
		{"web.main.tunnel.", dnsmessage.TypeMX, "RCodeSuccess 0 1 true"},
		{"nobody.main.tunnel.", dnsmessage.TypeA, "RCodeSuccess 0 1 true"},
		{"main.tunnel.", dnsmessage.TypeA, "RCodeSuccess 0 1 true"},
		{"none.main.tunnel.", dnsmessage.TypeA, "RCodeNameError 0 1 true"},
		{"tunnel.", dnsmessage.TypeA, "RCodeRefused 0 0 false"},
		{".", dnsmessage.TypeNS, "RCodeRefused 0 0 false"},
		{"example.com.", dnsmessage.TypeA, "RCodeRefused 0 0 false"},
	} {
		r := ask(t, testZone(), c.name, c.typ, nil)
		if got := fmt.Sprintf("%s %d %d %v", r.RCode.GoString()[len("dnsmessage."):], len(r.Answers), len(r.Authorities), r.Authoritative); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.name, c.typ, got, c.want)
		}
	}
	if r := ask(t, testZone(), "web.main.tunnel.", dnsmessage.TypeA, func(m *dnsmessage.Message) { m.OpCode = 5 }); r.RCode != dnsmessage.RCodeNotImplemented {
		t.Errorf("an update: %s", r.RCode)
	}
	if r := ask(t, testZone(), "web.main.tunnel.", dnsmessage.TypeA, func(m *dnsmessage.Message) { m.Questions = nil }); r.RCode != dnsmessage.RCodeFormatError {
		t.Errorf("no question: %s", r.RCode)
	}
	if r := ask(t, testZone(), "web.main.tunnel.", dnsmessage.TypeA, func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS }); r.RCode != dnsmessage.RCodeRefused {
		t.Errorf("another class: %s", r.RCode)
	}
	if answer := (&Zone{}).Answer([]byte{0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 512); answer != nil {
		t.Errorf("an answer was answered with %x", answer)
	}
}

// What is larger than the asker takes is said to be truncated.
func TestTruncation(t *testing.T) {
	long := strings.Repeat("a", 60) + "." + strings.Repeat("b", 60)
	z := Zone{Domain: "main.tunnel", Hosts: map[string][]netip.Addr{long: testZone().Hosts["many"]}}
	if r := ask(t, z, long+".main.tunnel.", dnsmessage.TypeAAAA, nil); !r.Truncated || len(r.Answers) != 0 {
		t.Errorf("512 bytes: %+v", r.Header)
	}
	withOPT := func(m *dnsmessage.Message) {
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(4096, 0, false); err != nil {
			t.Fatal(err)
		}
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	if r := ask(t, z, long+".main.tunnel.", dnsmessage.TypeAAAA, withOPT); r.Truncated || len(r.Answers) != maxAnswers || len(r.Additionals) != 1 {
		t.Errorf("more bytes: %+v with %d answers", r.Header, len(r.Answers))
	}
}

func FuzzAnswer(f *testing.F) {
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("web.main.tunnel."), Type: dnsmessage.TypeALL, Class: dnsmessage.ClassINET}}}
	b, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	z := testZone()
	f.Fuzz(func(t *testing.T, question []byte) {
		for _, most := range []int{512, maxMessage, maxStream} {
			answer := z.Answer(question, most)
			if len(answer) > most {
				t.Fatalf("%d bytes, at most %d are taken", len(answer), most)
			}
			var reply dnsmessage.Message
			if answer != nil && (reply.Unpack(answer) != nil || !reply.Response) {
				t.Fatalf("answered with %x", answer)
			}
			for _, r := range reply.Answers {
				if !strings.HasSuffix(strings.ToLower(r.Header.Name.String()), "main.tunnel.") {
					t.Fatalf("an answer about %s", r.Header.Name)
				}
			}
		}
	})
}
