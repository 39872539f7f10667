package resolve

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Bounds of what one answer may make us do.
const (
	maxRecords = 256
	maxAliases = 8 // in a row
)

var (
	errNotOurs   = errors.New("it answers another question")
	errMalformed = errors.New("its answer is malformed")
)

// question is one that was asked, with an id that nobody else knows.
type question struct {
	dnsmessage.Question
	id     uint16
	packed []byte
}

// answer is what a server says of a name: its addresses, none where there are none.
type answer struct {
	addrs     []netip.Addr
	ttl       time.Duration // of the shortest-lived record that led to them
	truncated bool          // it did not fit, and has to be asked for by TCP
}

// newQuestion asks a recursive server; name is in lower case and without a dot at its end.
func newQuestion(name string, typ dnsmessage.Type) (*question, error) {
	n, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return nil, fmt.Errorf("not a DNS name: %w", err)
	}
	var id [2]byte
	_, _ = rand.Read(id[:]) // never fails
	q := &question{Question: dnsmessage.Question{Name: n, Type: typ, Class: dnsmessage.ClassINET}, id: binary.BigEndian.Uint16(id[:])}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.id, RecursionDesired: true}, Questions: []dnsmessage.Question{q.Question}}
	if q.packed, err = m.Pack(); err != nil {
		return nil, fmt.Errorf("not a DNS name: %w", err)
	}
	return q, nil
}

// read takes a message for the answer if it is one to this question; errNotOurs: it is none.
func (q *question) read(b []byte) (answer, error) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || !h.Response || h.ID != q.id || h.OpCode != 0 {
		return answer{}, errNotOurs
	}
	echo, err := p.Question()
	if err != nil || echo.Type != q.Type || echo.Class != q.Class || fold(echo.Name) != fold(q.Name) {
		return answer{}, errNotOurs
	}
	if _, err := p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return answer{}, errNotOurs
	}
	switch {
	case h.Truncated:
		return answer{truncated: true}, nil
	case h.RCode == dnsmessage.RCodeNameError:
		return answer{}, nil
	case h.RCode != dnsmessage.RCodeSuccess:
		return answer{}, fmt.Errorf("it answers %s", h.RCode)
	}
	var r records
	if err := r.read(&p, q.Type); err != nil {
		return answer{}, err
	}
	return r.follow(fold(q.Name)), nil
}

// records are an answer's, by the names that they are of.
type records struct {
	hosts   map[string]answer
	aliases map[string]alias
}

type alias struct {
	to  string
	ttl time.Duration
}

func (r *records) read(p *dnsmessage.Parser, typ dnsmessage.Type) error {
	r.hosts, r.aliases = map[string]answer{}, map[string]alias{}
	for range maxRecords {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if err != nil {
			return errMalformed
		}
		of, ttl := fold(h.Name), lifetime(h.TTL)
		switch {
		case h.Class == dnsmessage.ClassINET && h.Type == dnsmessage.TypeCNAME:
			c, err := p.CNAMEResource()
			if err != nil {
				return errMalformed
			}
			if _, twice := r.aliases[of]; !twice {
				r.aliases[of] = alias{fold(c.CNAME), ttl}
			}
		case h.Class == dnsmessage.ClassINET && h.Type == typ:
			addr, err := address(p, h)
			if err != nil {
				return errMalformed
			}
			at, seen := r.hosts[of]
			if !seen {
				at.ttl = ttl
			}
			at.addrs, at.ttl = append(at.addrs, addr), min(at.ttl, ttl)
			r.hosts[of] = at
		default:
			if p.SkipAnswer() != nil {
				return errMalformed
			}
		}
	}
	return nil // more than that is not looked at
}

func address(p *dnsmessage.Parser, h dnsmessage.ResourceHeader) (netip.Addr, error) {
	if h.Type == dnsmessage.TypeA && h.Length == 4 {
		a, err := p.AResource()
		return netip.AddrFrom4(a.A), err
	}
	if h.Type == dnsmessage.TypeAAAA && h.Length == 16 {
		a, err := p.AAAAResource()
		return netip.AddrFrom16(a.AAAA), err
	}
	return netip.Addr{}, errMalformed
}

// follow goes from a name to its addresses, by aliases of the same answer: a recursive server has all of them in it.
func (r *records) follow(name string) answer {
	ttl := mostTTL
	for range maxAliases + 1 {
		if a, ok := r.hosts[name]; ok {
			a.ttl = min(a.ttl, ttl)
			return a
		}
		next, ok := r.aliases[name]
		if !ok {
			break
		}
		name, ttl = next.to, min(ttl, next.ttl)
	}
	return answer{}
}

// lifetime is that of a record; one with the highest bit set is none (RFC 2181).
func lifetime(ttl uint32) time.Duration {
	if ttl > 1<<31-1 {
		return 0
	}
	return min(time.Duration(ttl)*time.Second, mostTTL)
}

// fold is a name in lower case, byte by byte: it may hold anything.
func fold(n dnsmessage.Name) string {
	b := []byte(n.String())
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
