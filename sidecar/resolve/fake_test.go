package resolve

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// server answers one question with any number of messages.
type server func(q dnsmessage.Message, stream bool) []dnsmessage.Message

// fakeNet is a Network of name servers.
type fakeNet struct {
	mu      sync.Mutex
	servers map[netip.AddrPort]server // without one, dials are refused
	asked   []string                  // SERVER NAME TYPE
}

func (f *fakeNet) serve(at netip.AddrPort, s server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.servers == nil {
		f.servers = map[netip.AddrPort]server{}
	}
	f.servers[at] = s
}

// questions are those asked since the last call.
func (f *fakeNet) questions() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.asked
	f.asked = nil
	return out
}

func (f *fakeNet) answer(at netip.AddrPort, b []byte, stream bool) (out [][]byte) {
	var q dnsmessage.Message
	if err := q.Unpack(b); err != nil || len(q.Questions) != 1 {
		panic("not a question")
	}
	f.mu.Lock()
	f.asked = append(f.asked, at.Addr().String()+" "+q.Questions[0].Name.String()+" "+q.Questions[0].Type.String()[len("Type"):])
	s := f.servers[at]
	f.mu.Unlock()
	for _, m := range s(q, stream) {
		p, err := m.Pack()
		if err != nil {
			panic(err)
		}
		out = append(out, p)
	}
	return out
}

func (f *fakeNet) dial(at netip.AddrPort, serve func(net.Conn)) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.servers[at] == nil {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		serve(far)
	}()
	return near, nil
}

func (f *fakeNet) DialUDP(_ context.Context, at netip.AddrPort) (net.Conn, error) {
	return f.dial(at, func(c net.Conn) {
		b := make([]byte, 512)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			for _, reply := range f.answer(at, b[:n], false) {
				if _, err := c.Write(reply); err != nil {
					return
				}
			}
		}
	})
}

func (f *fakeNet) DialTCP(_ context.Context, at netip.AddrPort) (datapath.Stream, error) {
	c, err := f.dial(at, func(c net.Conn) {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		for _, reply := range f.answer(at, b, true) {
			if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
				return
			}
		}
	})
	return pipeStream{c}, err
}

func (*fakeNet) HandleTCP(func(datapath.TCPRequest)) {}
func (*fakeNet) HandleUDP(func(datapath.UDPRequest)) {}

type pipeStream struct{ net.Conn }

func (s pipeStream) CloseWrite() error { return s.Close() }
func (s pipeStream) Abort()            { _ = s.Close() }

// record is NAME TYPE VALUE with a TTL in seconds.
type record struct {
	name, typ, value string
	ttl              uint32
}

func (r record) resource() dnsmessage.Resource {
	h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(r.name + "."), Class: dnsmessage.ClassINET, TTL: r.ttl}
	if r.typ == "CNAME" {
		return dnsmessage.Resource{Header: h, Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(r.value + ".")}}
	}
	if a := netip.MustParseAddr(r.value); a.Is4() {
		return dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}}
	}
	return dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(r.value).As16()}}
}

// reply is a good answer with these records.
func reply(q dnsmessage.Message, records ...record) dnsmessage.Message {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true, RecursionAvailable: true}, Questions: q.Questions}
	for _, r := range records {
		m.Answers = append(m.Answers, r.resource())
	}
	return m
}

// knows is a server that says of each question those records that are of its type, or aliases.
func knows(records ...record) server {
	return func(q dnsmessage.Message, _ bool) []dnsmessage.Message {
		var some []record
		for _, r := range records {
			if "Type"+r.typ == q.Questions[0].Type.String() || r.typ == "CNAME" {
				some = append(some, r)
			}
		}
		return []dnsmessage.Message{reply(q, some...)}
	}
}

// silent never answers.
func silent(dnsmessage.Message, bool) []dnsmessage.Message { return nil }

// says is a server that answers nothing but a code.
func says(code dnsmessage.RCode) server {
	return func(q dnsmessage.Message, _ bool) []dnsmessage.Message {
		m := reply(q)
		m.RCode = code
		return []dnsmessage.Message{m}
	}
}

var (
	first, second, third = netip.MustParseAddrPort("192.168.10.53:53"), netip.MustParseAddrPort("192.168.10.54:53"), netip.MustParseAddrPort("192.168.10.55:53")
	longer               = netip.MustParseAddrPort("192.168.11.53:53")
)

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func testConfig() Config {
	return Config{
		Zones: []wire.DNSZone{{Domain: "corp.internal", Servers: []netip.AddrPort{first, second, third}},
			{Domain: "dark.corp.internal"}, {Domain: "lab.corp.internal", Servers: []netip.AddrPort{longer}}},
		Within: prefixes("192.168.0.0/16", "10.77.0.0/24", "2001:db8::/32", "fd07::/48"), Except: prefixes("10.77.0.0/24", "fd07::/64"), IPv4: true, IPv6: true,
	}
}

// bench is a resolver on a fake network, and what it logs.
type bench struct {
	*Resolver
	net fakeNet
	log bytes.Buffer
}

func newBench(t *testing.T, c Config) *bench {
	t.Helper()
	b := &bench{}
	b.Resolver = New(slog.New(slog.NewTextHandler(&b.log, nil)))
	b.Start(&b.net)
	b.Set(c)
	t.Cleanup(b.Close)
	return b
}
