package tenant

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// ErrPoolExhausted is what an allocation fails with when every address of the pool is in use.
var ErrPoolExhausted = errors.New("no free address")

// firstMemberID is the lowest interface identifier a member gets: those below are kept for gateways and for people.
const firstMemberID = 256

// IPv6Prefix is the /64 of a tunnel: what its spec says, or unique local addresses (RFC 4193) from a digest of its UID, so that
// two tunnels hardly ever share one. The zero Prefix means that the spec does not parse.
func IPv6Prefix(t *v1alpha1.TenantTunnel) netip.Prefix {
	if s := t.Spec.Addressing.IPv6Prefix; s != "" {
		p, err := netip.ParsePrefix(s)
		if err != nil || !p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() != 64 || p != p.Masked() {
			return netip.Prefix{}
		}
		return p
	}
	sum := sha256.Sum256([]byte("tenantwire.dev/tunnel/" + string(t.UID)))
	a := [16]byte{0: 0xfd}
	copy(a[1:8], sum[:7]) // 40 bits of global ID and 16 of subnet ID
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// IPv4Pool is the range of a tunnel's IPv4 addresses; the zero Prefix where it has none or the spec does not parse.
func IPv4Pool(t *v1alpha1.TenantTunnel) netip.Prefix {
	p, err := netip.ParsePrefix(t.Spec.Addressing.IPv4Pool)
	if err != nil || !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 30 || p != p.Masked() {
		return netip.Prefix{}
	}
	return p
}

// MemberIPv6 is the address of a pod in a tunnel's /64: a digest of the pod's UID, so that it is known without asking anyone and
// says nothing of how many pods there are. A taken one is passed over by digesting on; taken may be nil.
func MemberIPv6(prefix netip.Prefix, podUID types.UID, taken func(netip.Addr) bool) netip.Addr {
	return digestIPv6(prefix, "tenantwire.dev/member/"+string(podUID)+"/", taken)
}

func digestIPv6(prefix netip.Prefix, of string, taken func(netip.Addr) bool) netip.Addr {
	a := prefix.Addr().As16()
	for probe := uint32(0); ; probe++ {
		sum := sha256.Sum256(binary.BigEndian.AppendUint32([]byte(of), probe))
		if binary.BigEndian.Uint64(sum[:8]) < firstMemberID {
			continue
		}
		copy(a[8:], sum[:8])
		if addr := netip.AddrFrom16(a); taken == nil || !taken(addr) {
			return addr
		}
	}
}

// interfaceID is the second half of an IPv6 address.
func interfaceID(a netip.Addr) uint64 {
	b := a.As16()
	return binary.BigEndian.Uint64(b[8:])
}

// AllocateIPv4 is the lowest address of the pool from `from` on that is not taken, network and broadcast address left out. The
// zero `from` starts at the beginning.
func AllocateIPv4(pool netip.Prefix, from netip.Addr, taken func(netip.Addr) bool) (netip.Addr, error) {
	first := pool.Addr().Next()
	if from.IsValid() && first.Less(from) {
		first = from
	}
	last := broadcast(pool)
	for a := first; a.Less(last); a = a.Next() {
		if !taken(a) {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("allocate an IPv4 address: all %d of spec.addressing.ipv4Pool %s are in use: %w",
		1<<(32-pool.Bits())-2, pool, ErrPoolExhausted)
}

func broadcast(pool netip.Prefix) netip.Addr {
	b := pool.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|uint32(1<<(32-pool.Bits())-1))
	return netip.AddrFrom4(b)
}

// Allocator gives out a tunnel's addresses. It holds no state of its own but what it was told of: make one for each plan.
type Allocator struct {
	ipv6, ipv4 netip.Prefix
	taken      map[netip.Addr]struct{}
	next       netip.Addr // every IPv4 address below is taken
}

// NewAllocator makes an allocator of a tunnel's addresses, all of them free.
func NewAllocator(t *v1alpha1.TenantTunnel) *Allocator {
	return &Allocator{ipv6: IPv6Prefix(t), ipv4: IPv4Pool(t), taken: make(map[netip.Addr]struct{})}
}

// Keep takes the addresses that a member has and says whether it may keep them: they parse, are exactly what this tunnel gives (an
// IPv6 address, and an IPv4 address where there is a pool) and nobody had them before. If not, none of them is taken.
func (a *Allocator) Keep(addresses []string) bool {
	var v4, v6 int
	var parsed []netip.Addr
	for _, s := range addresses {
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.Zone() != "" || a.isTaken(addr) {
			return false
		}
		switch {
		case a.ipv6.Contains(addr):
			v6++
		case a.ipv4.IsValid() && a.ipv4.Contains(addr) && addr != a.ipv4.Addr() && addr != broadcast(a.ipv4):
			v4++
		default:
			return false
		}
		parsed = append(parsed, addr)
	}
	if want := a.ipv4.IsValid(); v6 != 1 || v4 > 1 || want != (v4 == 1) {
		return false
	}
	for _, addr := range parsed {
		a.taken[addr] = struct{}{}
	}
	return true
}

// Reserve keeps addresses from being given out.
func (a *Allocator) Reserve(addresses []netip.Addr) {
	for _, addr := range addresses {
		a.taken[addr] = struct{}{}
	}
}

// Take gives a pod its addresses: IPv6 and, where the tunnel has a pool, IPv4.
func (a *Allocator) Take(podUID types.UID) ([]string, error) {
	if !a.ipv6.IsValid() {
		return nil, errors.New("allocate an IPv6 address: spec.addressing.ipv6Prefix is not a /64")
	}
	var v4 netip.Addr
	if a.ipv4.IsValid() {
		var err error
		if v4, err = AllocateIPv4(a.ipv4, a.next, a.isTaken); err != nil {
			return nil, err
		}
		a.next = v4
		a.taken[v4] = struct{}{}
	}
	v6 := MemberIPv6(a.ipv6, podUID, a.isTaken)
	a.taken[v6] = struct{}{}
	if v4.IsValid() {
		return []string{v6.String(), v4.String()}, nil
	}
	return []string{v6.String()}, nil
}

func (a *Allocator) isTaken(addr netip.Addr) bool {
	_, ok := a.taken[addr]
	return ok
}
