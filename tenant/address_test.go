package tenant

import (
	"errors"
	"fmt"
	"math/rand"
	"net/netip"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func tunnelWith(uid, prefix, pool string) *v1alpha1.TenantTunnel {
	t := &v1alpha1.TenantTunnel{}
	t.Namespace, t.Name, t.UID = "shop", "main", types.UID(uid)
	t.Spec.Addressing = v1alpha1.Addressing{IPv6Prefix: prefix, IPv4Pool: pool}
	return t
}

func TestIPv6Prefix(t *testing.T) {
	ula := netip.MustParsePrefix("fd00::/8")
	seen := map[netip.Prefix]bool{}
	for i := range 1000 {
		p := IPv6Prefix(tunnelWith(fmt.Sprint("uid-", i), "", ""))
		if p.Bits() != 64 || p != p.Masked() || !ula.Overlaps(p) || p.Addr().As16()[0] != 0xfd {
			t.Fatalf("%s is not a /64 of unique local addresses", p)
		}
		if seen[p] {
			t.Fatalf("%s twice", p)
		}
		seen[p] = true
	}
	if a, b := IPv6Prefix(tunnelWith("x", "", "")), IPv6Prefix(tunnelWith("x", "", "")); a != b {
		t.Errorf("one UID gives %s and %s", a, b)
	}
	if got := IPv6Prefix(tunnelWith("x", "fd12:3456:789a:1::/64", "")); got.String() != "fd12:3456:789a:1::/64" {
		t.Errorf("spec gives %s", got)
	}
	for _, bad := range []string{"fd00::/48", "10.0.0.0/24", "fd00::1/64", "nonsense"} {
		if got := IPv6Prefix(tunnelWith("x", bad, "")); got.IsValid() {
			t.Errorf("%s gives %s", bad, got)
		}
	}
}

func TestMemberIPv6ProbesPastTakenAddresses(t *testing.T) {
	prefix := netip.MustParsePrefix("fd00:1:2:3::/64")
	first := MemberIPv6(prefix, "pod", nil)
	second := MemberIPv6(prefix, "pod", func(a netip.Addr) bool { return a == first })
	if first == second || !prefix.Contains(first) || !prefix.Contains(second) {
		t.Errorf("got %s, then %s", first, second)
	}
	if again := MemberIPv6(prefix, "pod", nil); again != first {
		t.Errorf("not stable: %s, then %s", first, again)
	}
}

func TestAllocateIPv4(t *testing.T) {
	pool := netip.MustParsePrefix("10.0.0.0/28")
	taken := map[netip.Addr]bool{}
	isTaken := func(a netip.Addr) bool { return taken[a] }
	for i := range 14 {
		a, err := AllocateIPv4(pool, netip.Addr{}, isTaken)
		if want := fmt.Sprintf("10.0.0.%d", i+1); err != nil || a.String() != want {
			t.Fatalf("got %s, %v; want %s", a, err, want)
		}
		taken[a] = true
	}
	_, err := AllocateIPv4(pool, netip.Addr{}, isTaken)
	if !errors.Is(err, ErrPoolExhausted) || !strings.Contains(err.Error(), "10.0.0.0/28") || !strings.Contains(err.Error(), "14") {
		t.Errorf("exhausted pool: %v", err)
	}
	delete(taken, netip.MustParseAddr("10.0.0.3"))
	if a, err := AllocateIPv4(pool, netip.Addr{}, isTaken); err != nil || a.String() != "10.0.0.3" {
		t.Errorf("got %s, %v; want the one that became free", a, err)
	}
}

// Random joins and leaves: whoever is a member keeps what it has, nobody shares and everybody is inside the ranges.
func TestAllocatorProperties(t *testing.T) {
	for seed := range int64(50) {
		rnd := rand.New(rand.NewSource(seed)) //nolint:gosec // a test wants to be repeatable
		tun := tunnelWith(fmt.Sprint(seed), "", []string{"", "10.0.0.0/24", "192.168.0.0/28"}[seed%3])
		v6, v4 := IPv6Prefix(tun), IPv4Pool(tun)
		members := map[types.UID][]string{}
		for round := range 20 {
			for uid := range members {
				if rnd.Intn(3) == 0 {
					delete(members, uid)
				}
			}
			a := NewAllocator(tun)
			for uid, addresses := range members {
				if !a.Keep(addresses) {
					t.Fatalf("seed %d: %s may not keep %v", seed, uid, addresses)
				}
			}
			for i := range rnd.Intn(12) {
				uid := types.UID(fmt.Sprintf("%d-%d", round, i))
				got, err := a.Take(uid)
				if err != nil && v4.Bits() == 28 && len(members) >= 14 {
					continue
				}
				if err != nil {
					t.Fatalf("seed %d: with %d members: %v", seed, len(members), err)
				}
				members[uid] = got
			}
			owner := map[string]types.UID{}
			for uid, addresses := range members {
				for _, s := range addresses {
					addr := netip.MustParseAddr(s)
					if other, dup := owner[s]; dup {
						t.Fatalf("seed %d: %s and %s share %s", seed, uid, other, s)
					}
					owner[s] = uid
					if !v6.Contains(addr) && (!v4.Contains(addr) || addr == v4.Addr() || addr == broadcast(v4)) {
						t.Fatalf("seed %d: %s is outside %s and %s", seed, s, v6, v4)
					}
				}
			}
		}
	}
}

func TestKeepRefusesWhatIsNotTheTunnels(t *testing.T) {
	tun := tunnelWith("x", "fd00:1:2:3::/64", "10.0.0.0/24")
	for name, addresses := range map[string][]string{
		"none": nil, "other prefix": {"fd00:9::1", "10.0.0.1"}, "no IPv4": {"fd00:1:2:3::5"}, "no IPv6": {"10.0.0.1"},
		"network": {"fd00:1:2:3::5", "10.0.0.0"}, "broadcast": {"fd00:1:2:3::5", "10.0.0.255"}, "garbage": {"fd00:1:2:3::5", "x"},
		"two IPv6": {"fd00:1:2:3::5", "fd00:1:2:3::6", "10.0.0.1"},
	} {
		if NewAllocator(tun).Keep(addresses) {
			t.Errorf("%s: %v was kept", name, addresses)
		}
	}
	a := NewAllocator(tun)
	if !a.Keep([]string{"fd00:1:2:3::5", "10.0.0.1"}) || a.Keep([]string{"fd00:1:2:3::6", "10.0.0.1"}) {
		t.Error("an address was kept twice, or a good one refused")
	}
}
