package device

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	wg "github.com/tailscale/wireguard-go/device"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

const maxKeepalive = 65535 * time.Second

// registry is what we have configured, in normal form: AllowedIPs masked, sorted, without repetitions.
type registry map[key.Public]datapath.Peer

// delta is a validated change: the peers as they are to be, who goes, and what the engine must be told.
type delta struct {
	upserts []datapath.Peer
	removed []key.Public
	changes []peerChange
}

// plan decides what the given upserts and removals change. It changes nothing itself.
func plan(self key.Public, have registry, upsert []datapath.Peer, remove []key.Public) (delta, error) {
	var d delta
	named := make(map[key.Public]bool, len(upsert)+len(remove))
	for _, p := range upsert {
		p, err := normalize(self, p)
		if err != nil {
			return delta{}, fmt.Errorf("peer %s: %w", p.PublicKey, err)
		}
		if named[p.PublicKey] {
			return delta{}, fmt.Errorf("peer %s: named twice", p.PublicKey)
		}
		named[p.PublicKey] = true
		d.upserts = append(d.upserts, p)
	}
	for _, k := range remove {
		if named[k] {
			return delta{}, fmt.Errorf("peer %s: named twice", k)
		}
		named[k] = true
		d.removed = append(d.removed, k)
	}
	if err := exclusive(have, named, d.upserts); err != nil {
		return delta{}, err
	}
	for _, p := range d.upserts {
		old, known := have[p.PublicKey]
		if c, changed := diff(old, p, known); changed {
			d.changes = append(d.changes, c)
		}
	}
	// Removals last: where a peer takes over another's AllowedIPs, as at a key rotation, there is no moment without a peer.
	for _, k := range d.removed {
		if _, known := have[k]; known {
			d.changes = append(d.changes, peerChange{PublicKey: k, Remove: true})
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
	return p, nil
}

// exclusive refuses an allowed IP that two peers would have: the engine would give it to whichever came last, silently.
func exclusive(have registry, named map[key.Public]bool, upserts []datapath.Peer) error {
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
	if total > wg.MaxPeers {
		return fmt.Errorf("%d peers: a device takes at most %d", total, wg.MaxPeers)
	}
	return nil
}

// diff is what the engine must be told to make old the peer p. An endpoint that we do not change is not repeated: the peer
// may have roamed since.
func diff(old, p datapath.Peer, known bool) (c peerChange, changed bool) {
	c = peerChange{PublicKey: p.PublicKey, Attach: !known}
	if !old.PresharedKey.Equal(p.PresharedKey) {
		c.PresharedKey, changed = &p.PresharedKey, true
	}
	if p.Endpoint.IsValid() && p.Endpoint != old.Endpoint {
		c.Endpoint, changed = p.Endpoint, true
	}
	if p.Keepalive != old.Keepalive {
		c.Keepalive, changed = seconds(p.Keepalive), true
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

// commit records what the engine has taken.
func (r registry) commit(d delta) {
	for _, p := range d.upserts {
		if old, known := r[p.PublicKey]; known && !p.Endpoint.IsValid() {
			p.Endpoint = old.Endpoint // an endpoint cannot be taken back, only replaced
		}
		r[p.PublicKey] = p
	}
	for _, k := range d.removed {
		delete(r, k)
	}
}

// restore is what brings the changed peers back to what the registry says.
func (r registry) restore(changes []peerChange) []peerChange {
	out := make([]peerChange, 0, len(changes))
	for _, c := range changes {
		p, known := r[c.PublicKey]
		if !known {
			out = append(out, peerChange{PublicKey: c.PublicKey, Remove: true})
			continue
		}
		back := peerChange{
			PublicKey: p.PublicKey, Attach: c.Remove, PresharedKey: &p.PresharedKey, Keepalive: seconds(p.Keepalive),
			ReplaceAllowedIPs: true, AllowedIPs: p.AllowedIPs,
		}
		out = append(out, back)
	}
	return out
}
