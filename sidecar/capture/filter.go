package capture

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// maxTerms bounds a filter: each packet is held against every term.
const maxTerms = 32

// Filter picks packets. Its zero value picks all.
//
// Its text is terms joined by "and" and "or", of which "and" binds closer, each of them with "not" before it if need be:
//
//	host ADDRESS   net RANGE   port NUMBER   peer PUBLICKEY   tcp   udp   icmp
//
// Host, net, port and peer look at both ends of a packet. A peer is who may have the addresses that it has when Resolve is called.
type Filter struct{ any [][]term } // a packet is picked if all terms of one list say so

type term struct {
	kind     string
	not      bool
	port     uint16
	protocol []byte
	nets     []netip.Prefix // of host, net and peer
	peer     key.Public
}

// words are the terms, and whether a value follows.
var words = map[string]bool{"host": true, "net": true, "port": true, "peer": true, "tcp": false, "udp": false, "icmp": false}

// ParseFilter reads a filter. Errors name the word and what would be right.
func ParseFilter(text string) (Filter, error) {
	if len(text) > wire.MaxFilter {
		return Filter{}, fmt.Errorf("filter: %d bytes, want at most %d", len(text), wire.MaxFilter)
	}
	rest := strings.Fields(text)
	if len(rest) == 0 {
		return Filter{}, nil
	}
	var f Filter
	var all []term
	for terms := 1; ; terms++ {
		if terms > maxTerms {
			return Filter{}, fmt.Errorf("filter: more than %d terms", maxTerms)
		}
		t, left, err := parseTerm(rest)
		if err != nil {
			return Filter{}, fmt.Errorf("filter: %w", err)
		}
		all = append(all, t)
		if len(left) == 0 {
			f.any = append(f.any, all)
			return f, nil
		}
		switch left[0] {
		case "and":
		case "or":
			f.any, all = append(f.any, all), nil
		default:
			return Filter{}, fmt.Errorf("filter: %.64q: want and, or, or nothing more", left[0])
		}
		rest = left[1:]
	}
}

func parseTerm(in []string) (t term, rest []string, err error) {
	for len(in) > 0 && in[0] == "not" {
		t.not, in = !t.not, in[1:]
	}
	if len(in) == 0 {
		return t, nil, errors.New("it ends where a term is wanted: host, net, port, peer, tcp, udp or icmp")
	}
	t.kind = in[0]
	valued, known := words[t.kind]
	switch {
	case !known:
		return t, nil, fmt.Errorf("%.64q is not host, net, port, peer, tcp, udp or icmp", t.kind)
	case !valued:
		return t, in[1:], t.set("")
	case len(in) == 1:
		return t, nil, fmt.Errorf("%s: a value is missing", t.kind)
	}
	if err := t.set(in[1]); err != nil {
		return t, nil, fmt.Errorf("%s: %w", t.kind, err)
	}
	return t, in[2:], nil
}

// set gives a term its value.
func (t *term) set(value string) (err error) {
	switch t.kind {
	case "tcp":
		t.protocol = []byte{protocolTCP}
	case "udp":
		t.protocol = []byte{protocolUDP}
	case "icmp":
		t.protocol = []byte{protocolICMP, protocolICMP6}
	case "host":
		a, err := netip.ParseAddr(value)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			return fmt.Errorf("%.64q is not an IP address, for example 10.77.0.7", value)
		}
		t.nets = []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}
	case "net":
		p, err := netip.ParsePrefix(value)
		if err != nil || p.Addr().Is4In6() {
			return fmt.Errorf("%.64q is not a range, for example 192.168.10.0/24", value)
		}
		t.nets = []netip.Prefix{p.Masked()}
	case "port":
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("%.64q is not a number from 1 to 65535", value)
		}
		t.port = uint16(n)
	case "peer":
		if t.peer, err = key.ParsePublic(value); err != nil {
			return fmt.Errorf("%.64q is not a peer's public key", value)
		}
	}
	return nil
}

// Resolve finds the addresses of the peers that the filter names. Without it such a term picks nothing.
func (f Filter) Resolve(find func(key.Public) ([]netip.Prefix, bool)) error {
	for _, all := range f.any {
		for i := range all {
			if all[i].kind != "peer" {
				continue
			}
			nets, ok := find(all[i].peer)
			if !ok {
				return fmt.Errorf("filter: peer: %s is not a peer of this pod", all[i].peer)
			}
			all[i].nets = nets
		}
	}
	return nil
}

// Match says whether a packet is picked. It never allocates.
func (f Filter) Match(p *Packet) bool {
	if len(f.any) == 0 {
		return true
	}
	for _, all := range f.any {
		picks := true
		for i := range all {
			if all[i].match(p) == all[i].not {
				picks = false
				break
			}
		}
		if picks {
			return true
		}
	}
	return false
}

func (t *term) match(p *Packet) bool {
	switch {
	case t.port != 0:
		return p.Source.Port() == t.port || p.Destination.Port() == t.port
	case t.protocol != nil:
		return slices.Contains(t.protocol, p.Protocol)
	}
	for _, n := range t.nets {
		if n.Contains(p.Source.Addr()) || n.Contains(p.Destination.Addr()) {
			return true
		}
	}
	return false
}
