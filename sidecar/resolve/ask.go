package resolve

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// How long servers may take. All that a name takes fits the time that a connection may take to be made.
var rounds = []time.Duration{time.Second, 2 * time.Second} // each server has so long in each round

const (
	budget   = 7 * time.Second        // for a name
	grace    = 300 * time.Millisecond // for the one family when the other has been found
	sickness = 30 * time.Second       // for which a server that did not answer is asked last
	maxStray = 32                     // datagrams that answer something else, before a server is given up
	maxReply = 4096                   // bytes of a datagram
)

var errNotUp = errors.New("the data path is not up yet")

// askFamilies asks for both families at once. Its answers are in the order of preference, IPv6 first; the error says why one is missing.
func (r *Resolver) askFamilies(s *state, z *wire.DNSZone, name string) ([]answer, error) {
	network := r.network.Load()
	if network == nil {
		return nil, errNotUp
	}
	if len(z.Servers) == 0 {
		return nil, fmt.Errorf("%w: no server of %s has a route", ErrNoAnswer, z.Domain)
	}
	var types []dnsmessage.Type
	if s.IPv6 {
		types = append(types, dnsmessage.TypeAAAA)
	}
	if s.IPv4 {
		types = append(types, dnsmessage.TypeA)
	}
	ctx, cancel := context.WithTimeout(r.ctx, budget)
	defer cancel()
	type result struct {
		i int
		answer
		err error
	}
	results := make(chan result, len(types))
	for i, typ := range types {
		r.wg.Go(func() {
			a, err := r.askServers(ctx, *network, s, z, name, typ)
			results <- result{i, a, err}
		})
	}
	answers := make([]answer, len(types))
	var failed error
	for range types {
		got := <-results
		answers[got.i] = got.answer
		if got.err != nil {
			failed = got.err
		}
		if len(got.addrs) > 0 {
			t := time.AfterFunc(grace, cancel)
			defer t.Stop()
		}
	}
	return answers, failed
}

// askServers asks one server after the other, until one answers.
func (r *Resolver) askServers(ctx context.Context, n datapath.Network, s *state, z *wire.DNSZone, name string, typ dnsmessage.Type) (answer, error) {
	var last error
	for _, patience := range rounds {
		for _, server := range s.order(z.Servers, time.Now()) {
			a, err := ask(ctx, n, server, name, typ, patience)
			if err == nil {
				s.mark(server, false)
				return a, nil
			}
			if ctx.Err() != nil {
				return answer{}, fmt.Errorf("%w: %w", ErrNoAnswer, cmp.Or(last, err))
			}
			s.mark(server, true)
			last = fmt.Errorf("%s: %w", server, err)
			r.log.Debug("a name server did not answer", "server", server.String(), "name", name, "type", typ.String(), "error", err.Error())
		}
	}
	return answer{}, fmt.Errorf("%w: %w", ErrNoAnswer, last)
}

// order puts those that did not answer lately last.
func (s *state) order(servers []netip.AddrPort, now time.Time) []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(servers)
	slices.SortStableFunc(out, func(a, b netip.AddrPort) int {
		sa, sb := now.Before(s.sick[a]), now.Before(s.sick[b])
		switch {
		case sa == sb:
			return 0
		case sb:
			return -1
		}
		return 1
	})
	return out
}

func (s *state) mark(server netip.AddrPort, sick bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sick {
		s.sick[server] = time.Now().Add(sickness)
	} else {
		delete(s.sick, server)
	}
}

// ask asks one server one question: by UDP, and by TCP when the answer does not fit.
func ask(ctx context.Context, n datapath.Network, server netip.AddrPort, name string, typ dnsmessage.Type, patience time.Duration) (answer, error) {
	q, err := newQuestion(name, typ)
	if err != nil {
		return answer{}, err
	}
	a, err := q.overUDP(ctx, n, server, patience)
	if err == nil && a.truncated {
		a, err = q.overTCP(ctx, n, server, patience)
	}
	return a, err
}

// bounded has a connection end with ctx, after patience at most.
func bounded(ctx context.Context, c net.Conn, patience time.Duration) (stop func() bool) {
	_ = c.SetDeadline(time.Now().Add(patience))
	return context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
}

// overUDP asks from a socket of its own, which only the server's datagrams reach. Those that answer something else are passed over.
func (q *question) overUDP(ctx context.Context, n datapath.Network, server netip.AddrPort, patience time.Duration) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := n.DialUDP(ctx, server)
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	defer bounded(ctx, c, patience)()
	if _, err := c.Write(q.packed); err != nil {
		return answer{}, err
	}
	b := make([]byte, maxReply)
	for range maxStray {
		m, err := c.Read(b)
		if err != nil {
			return answer{}, err
		}
		a, err := q.read(b[:m])
		if !errors.Is(err, errNotOurs) {
			return a, err
		}
	}
	return answer{}, errNotOurs
}

// overTCP asks the same by a stream, where each message is behind its length.
func (q *question) overTCP(ctx context.Context, n datapath.Network, server netip.AddrPort, patience time.Duration) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := n.DialTCP(ctx, server)
	if err != nil {
		return answer{}, err
	}
	defer c.Abort()
	defer bounded(ctx, c, patience)()
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q.packed))), q.packed...)); err != nil {
		return answer{}, err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return answer{}, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return answer{}, err
	}
	a, err := q.read(b)
	if err == nil && a.truncated {
		return answer{}, errMalformed
	}
	return a, err
}
