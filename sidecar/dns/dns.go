// Package dns answers for the names of one tunnel, and for nothing else: it asks nobody, and knows what Set was told.
//
// It serves UDP and TCP on loopback; a relay carries peers' questions there from the tunnel. Who asks for a name outside of the zone is
// refused, so that a resolver asks somebody else.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// ttl is how long an answer may be kept, in seconds: members come and go.
	ttl = 5
	// maxAnswers is of one question. More would not fit a datagram that every resolver takes.
	maxAnswers = 16
)

// Zone is a domain and what is in it.
type Zone struct {
	Domain string                  // without a dot at its end, for example main.tunnel; empty: every question is refused
	Hosts  map[string][]netip.Addr // by the name within the domain, in lower case
}

// Server answers questions. All methods are safe for concurrent use.
type Server struct {
	udp  net.PacketConn
	tcp  net.Listener
	log  *slog.Logger
	zone atomic.Pointer[Zone]
	wg   sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil: closed
}

// Listen serves on one port of 127.0.0.1, the same for UDP and TCP, and none of avoid. Close ends it.
func Listen(log *slog.Logger, avoid ...uint16) (*Server, error) {
	s := &Server{log: log, conns: map[net.Conn]struct{}{}}
	s.zone.Store(&Zone{})
	var err error
	for range 10 { // the other protocol may have the port taken
		if s.tcp, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0"); err != nil {
			break
		}
		if slices.Contains(avoid, s.Addr().Port()) {
			err = fmt.Errorf("port %d is for others", s.Addr().Port())
		} else if s.udp, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", s.tcp.Addr().String()); err == nil {
			break
		}
		_ = s.tcp.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("listen for questions: %w", err)
	}
	s.wg.Go(s.serveUDP)
	s.wg.Go(s.serveTCP)
	return s, nil
}

// Addr is where it listens.
func (s *Server) Addr() netip.AddrPort { return netip.MustParseAddrPort(s.tcp.Addr().String()) }

// Set takes the place of what was told before. The zone is not changed any more.
func (s *Server) Set(z Zone) { s.zone.Store(&z) }

// Close ends it and whatever is under way.
func (s *Server) Close() error {
	s.mu.Lock()
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	err := errors.Join(s.udp.Close(), s.tcp.Close())
	for c := range conns {
		_ = c.Close()
	}
	s.wg.Wait()
	return err
}

// Answer is the answer to one message of at most that many bytes; nil: none is due, as to what is no question.
func (z *Zone) Answer(question []byte, most int) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(question)
	if err != nil || h.Response {
		return nil
	}
	reply := dnsmessage.Message{Header: dnsmessage.Header{ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired}}
	q, err := p.Question()
	switch {
	case h.OpCode != 0:
		reply.RCode = dnsmessage.RCodeNotImplemented
	case err != nil:
		reply.RCode = dnsmessage.RCodeFormatError
	default:
		reply.Questions = []dnsmessage.Question{q}
		z.resolve(&reply, q)
		size, extended := payloadSize(&p)
		if most <= maxMessage { // a datagram
			most = size
		}
		if extended {
			reply.Additionals = []dnsmessage.Resource{extension()}
		}
	}
	return pack(&reply, most)
}

// resolve fills in what the zone says.
func (z *Zone) resolve(reply *dnsmessage.Message, q dnsmessage.Question) {
	host, ok := z.within(q.Name.String())
	if !ok || q.Class != dnsmessage.ClassINET {
		reply.RCode = dnsmessage.RCodeRefused
		return
	}
	reply.Authoritative = true
	addresses, exists := z.Hosts[host]
	for _, a := range addresses {
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: ttl}}
		switch {
		case a.Is4() && (q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeALL):
			r.Body = &dnsmessage.AResource{A: a.As4()}
		case a.Is6() && (q.Type == dnsmessage.TypeAAAA || q.Type == dnsmessage.TypeALL):
			r.Body = &dnsmessage.AAAAResource{AAAA: a.As16()}
		default:
			continue
		}
		reply.Answers = append(reply.Answers, r)
	}
	// Clients take the first.
	rand.Shuffle(len(reply.Answers), func(i, j int) { reply.Answers[i], reply.Answers[j] = reply.Answers[j], reply.Answers[i] })
	reply.Answers = reply.Answers[:min(len(reply.Answers), maxAnswers)]
	if len(reply.Answers) == 0 {
		if !exists && host != "" {
			reply.RCode = dnsmessage.RCodeNameError
		}
		reply.Authorities = z.authority()
	}
}

// within is the part of a name before the zone's domain; empty for the domain itself.
func (z *Zone) within(name string) (host string, ok bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if z.Domain == "" {
		return "", false
	}
	if name == z.Domain {
		return "", true
	}
	return strings.CutSuffix(name, "."+z.Domain)
}

// authority says for how long an answer that is none may be kept (RFC 2308).
func (z *Zone) authority() []dnsmessage.Resource {
	name, err := dnsmessage.NewName(z.Domain + ".")
	if err != nil {
		return nil
	}
	return []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: ttl},
		Body:   &dnsmessage.SOAResource{NS: name, MBox: name, Serial: 1, Refresh: ttl, Retry: ttl, Expire: ttl, MinTTL: ttl},
	}}
}

// payloadSize is what the asker takes in one datagram: 512 bytes, or what it says (RFC 6891), up to what every path carries.
func payloadSize(p *dnsmessage.Parser) (size int, extended bool) {
	const least = 512
	if p.SkipAllQuestions() != nil || p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return least, false
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return least, false
		}
		if h.Type == dnsmessage.TypeOPT {
			return min(max(int(h.Class), least), maxMessage), true
		}
		if p.SkipAdditional() != nil {
			return least, false
		}
	}
}

// extension tells who speaks EDNS that we do.
func extension() dnsmessage.Resource {
	var h dnsmessage.ResourceHeader
	_ = h.SetEDNS0(maxMessage, dnsmessage.RCodeSuccess, false) // fails for no size
	return dnsmessage.Resource{Header: h, Body: &dnsmessage.OPTResource{}}
}

// pack writes the message, and says that it is truncated if it has to leave its answers out.
func pack(m *dnsmessage.Message, most int) []byte {
	b, err := m.Pack()
	if err == nil && len(b) <= most {
		return b
	}
	m.Truncated, m.Answers, m.Authorities = err == nil, nil, nil
	if err != nil {
		m.RCode = dnsmessage.RCodeServerFailure
	}
	if b, err = m.Pack(); err != nil || len(b) > most {
		return nil
	}
	return b
}
