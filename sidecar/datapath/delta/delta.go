// Package delta decides what a change of peers means: which of it is wrong, and what a live interface must be told to get from
// what it has to what is wanted. It is pure; every datapath validates by it and keeps its Registry, so that all of them take and
// refuse the same.
package delta

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

const maxKeepalive = 65535 * time.Second

// Registry is what we have configured, in normal form: AllowedIPs masked, sorted, without repetitions; Mappings sorted.
type Registry map[key.Public]datapath.Peer

// MaxPeers is how many peers an interface takes: the engines' own bound.
const MaxPeers = 1 << 16

// Delta is a validated change: the peers as they are to be, who goes, and what the interface must be told.
type Delta struct {
	Upserts []datapath.Peer
	Removed []key.Public
	Changes []Change
}

// Change changes, adds or removes one peer; nil and zero fields stay as they are.
type Change struct {
	PublicKey         key.Public
	Remove            bool
	New               bool           // the interface does not know the peer yet
	PresharedKey      *key.Preshared // zero key: none from now on
	Endpoint          netip.AddrPort // zero: unchanged, the peer may have roamed
	Keepalive         *uint16        // seconds
	Outside           *bool
	ReplaceAllowedIPs bool
	AllowedIPs        []netip.Prefix // added, unless they replace
	Mappings          *[]datapath.Mapping
	Answers           *[]netip.Addr
}

// Plan decides what the given upserts and removals change. It changes nothing itself.
func Plan(self key.Public, have Registry, upsert []datapath.Peer, remove []key.Public) (Delta, error) {
	var d Delta
	named := make(map[key.Public]bool, len(upsert)+len(remove))
	for _, p := range upsert {
		p, err := normalize(self, p)
		if err != nil {
			return Delta{}, fmt.Errorf("peer %s: %w", p.PublicKey, err)
		}
		if named[p.PublicKey] {
			return Delta{}, fmt.Errorf("peer %s: named twice", p.PublicKey)
		}
		named[p.PublicKey] = true
		d.Upserts = append(d.Upserts, p)
	}
	for _, k := range remove {
		if named[k] {
			return Delta{}, fmt.Errorf("peer %s: named twice", k)
		}
		named[k] = true
		d.Removed = append(d.Removed, k)
	}
	if err := exclusive(have, named, d.Upserts); err != nil {
		return Delta{}, err
	}
	for _, p := range d.Upserts {
		old, known := have[p.PublicKey]
		if c, changed := diff(old, p, known); changed {
			d.Changes = append(d.Changes, c)
		}
	}
	// Removals last: where a peer takes over another's AllowedIPs, as at a key rotation, there is no moment without a peer.
	for _, k := range d.Removed {
		if _, known := have[k]; known {
			d.Changes = append(d.Changes, Change{PublicKey: k, Remove: true})
		}
	}
	return d, nil
}

// normalize checks one peer by itself and brings it into normal form.
func normalize(self key.Public, p datapath.Peer) (datapath.Peer, error) {
	switch {
	case p.PublicKey.IsZero():
		return p, errors.New("no public key")
	case p.PublicKey == self:
		return p, errors.New("is this device itself")
	case p.Keepalive < 0 || p.Keepalive > maxKeepalive:
		return p, fmt.Errorf("keepalive %s: want 0 to %s", p.Keepalive, maxKeepalive)
	case p.Keepalive%time.Second != 0:
		return p, fmt.Errorf("keepalive %s: want whole seconds", p.Keepalive)
	}
	if p.Endpoint != (netip.AddrPort{}) {
		a := p.Endpoint.Addr().Unmap()
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" || p.Endpoint.Port() == 0 ||
			a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return p, fmt.Errorf("endpoint %s: want a unicast address and a port", p.Endpoint)
		}
		p.Endpoint = netip.AddrPortFrom(a, p.Endpoint.Port())
	}
	ips := make([]netip.Prefix, 0, len(p.AllowedIPs))
	for _, ip := range p.AllowedIPs {
		if !ip.IsValid() || ip.Addr().Is4In6() {
			return p, fmt.Errorf("allowed IP %s: not an IPv4 or IPv6 prefix", ip)
		}
		ips = append(ips, ip.Masked())
	}
	slices.SortFunc(ips, netip.Prefix.Compare)
	p.AllowedIPs = slices.Compact(ips)
	return mapped(p)
}

// mapped checks a peer's mappings beside its allowed IPs, and sorts them.
func mapped(p datapath.Peer) (datapath.Peer, error) {
	if len(p.Mappings) == 0 {
		p.Mappings = nil
		return p, nil
	}
	p.Mappings = slices.Clone(p.Mappings)
	slices.SortFunc(p.Mappings, func(a, b datapath.Mapping) int { return a.Real.Compare(b.Real) })
	others := slices.Clone(p.AllowedIPs)
	for _, m := range p.Mappings {
		i := slices.Index(others, m.Seen)
		if i < 0 {
			return p, fmt.Errorf("mapping of %s: %s is not one of the allowed IPs", m.Real, m.Seen)
		}
		others = slices.Delete(others, i, i+1)
	}
	return p, datapath.CheckMappings(p.Mappings, others)
}

// exclusive refuses an allowed IP that two peers would have: an interface would give it to whichever came last, silently.
func exclusive(have Registry, named map[key.Public]bool, upserts []datapath.Peer) error {
	owner := make(map[netip.Prefix]key.Public)
	want := make(map[netip.Prefix]bool)
	for _, p := range upserts {
		for _, ip := range p.AllowedIPs {
			if other, taken := owner[ip]; taken {
				return fmt.Errorf("peer %s: allowed IP %s belongs to peer %s", p.PublicKey, ip, other)
			}
			owner[ip], want[ip] = p.PublicKey, true
		}
	}
	total := len(upserts)
	for k, p := range have {
		if named[k] {
			continue
		}
		total++
		for _, ip := range p.AllowedIPs {
			if want[ip] {
				return fmt.Errorf("peer %s: allowed IP %s belongs to peer %s", owner[ip], ip, k)
			}
		}
	}
	if total > MaxPeers {
		return fmt.Errorf("%d peers: a device takes at most %d", total, MaxPeers)
	}
	return nil
}

// diff is what the interface must be told to make old the peer p. An endpoint that we do not change is not repeated: the peer
// may have roamed since.
func diff(old, p datapath.Peer, known bool) (c Change, changed bool) {
	c = Change{PublicKey: p.PublicKey, New: !known}
	if !old.PresharedKey.Equal(p.PresharedKey) {
		c.PresharedKey, changed = &p.PresharedKey, true
	}
	if p.Endpoint.IsValid() && p.Endpoint != old.Endpoint {
		c.Endpoint, changed = p.Endpoint, true
	}
	if p.Keepalive != old.Keepalive {
		c.Keepalive, changed = seconds(p.Keepalive), true
	}
	if p.Outside != old.Outside {
		c.Outside, changed = &p.Outside, true
	}
	if !slices.Equal(old.Mappings, p.Mappings) {
		c.Mappings, changed = &p.Mappings, true
	}
	if !slices.Equal(old.Answers, p.Answers) {
		c.Answers, changed = &p.Answers, true
	}
	if !slices.Equal(old.AllowedIPs, p.AllowedIPs) {
		changed = true
		added := slices.DeleteFunc(slices.Clone(p.AllowedIPs), func(ip netip.Prefix) bool {
			return slices.Contains(old.AllowedIPs, ip)
		})
		if len(added)+len(old.AllowedIPs) == len(p.AllowedIPs) {
			c.AllowedIPs = added // nothing goes, so nothing needs replacing
		} else {
			c.ReplaceAllowedIPs, c.AllowedIPs = true, p.AllowedIPs
		}
	}
	return c, changed || !known
}

func seconds(d time.Duration) *uint16 {
	n := uint16(d / time.Second)
	return &n
}

// Commit records what the interface has taken.
func (r Registry) Commit(d Delta) {
	for _, p := range d.Upserts {
		if old, known := r[p.PublicKey]; known && !p.Endpoint.IsValid() {
			p.Endpoint = old.Endpoint // an endpoint cannot be taken back, only replaced
		}
		r[p.PublicKey] = p
	}
	for _, k := range d.Removed {
		delete(r, k)
	}
}

// Restore is what brings the changed peers back to what the registry says.
func (r Registry) Restore(changes []Change) []Change {
	out := make([]Change, 0, len(changes))
	for _, c := range changes {
		p, known := r[c.PublicKey]
		if !known {
			out = append(out, Change{PublicKey: c.PublicKey, Remove: true})
			continue
		}
		back := Change{
			PublicKey: p.PublicKey, New: c.Remove, PresharedKey: &p.PresharedKey, Keepalive: seconds(p.Keepalive), Outside: &p.Outside,
			ReplaceAllowedIPs: true, AllowedIPs: p.AllowedIPs, Mappings: &p.Mappings, Answers: &p.Answers,
		}
		out = append(out, back)
	}
	return out
}

// Routes is every inner address that some peer may use, and where peers are outside, as far as they were given.
func (r Registry) Routes() (to []netip.Prefix, endpoints []netip.Addr) {
	for _, p := range r {
		to = append(to, p.AllowedIPs...)
		if p.Endpoint.IsValid() {
			endpoints = append(endpoints, p.Endpoint.Addr())
		}
	}
	return to, endpoints
}
