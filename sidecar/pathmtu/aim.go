package pathmtu

import (
	"net/netip"
	"slices"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// mostTargets bounds the addresses of a peer that are tried in turn until one answers, where nobody has said which may.
const mostTargets = 4

// Aim is which of a peer's inner addresses is asked. Its zero value asks none.
type Aim struct {
	targets []netip.Addr // those that may answer
	turn    int          // which of them is asked
}

// targetsOf are the addresses of a peer's that may be its own: those that it is said to have, else those of its allowed IPs that are
// single ones.
func targetsOf(p datapath.Peer) (out []netip.Addr) {
	if len(p.Answers) > 0 {
		return p.Answers
	}
	for _, ip := range p.AllowedIPs {
		if ip.IsSingleIP() && len(out) < mostTargets {
			out = append(out, ip.Addr())
		}
	}
	return out
}

// Set aims at the peer as it is now: at the address that was asked last, if that is still one of its own. Else anew is true, and whatever
// has been answered was another's.
func (a *Aim) Set(is datapath.Peer) (anew bool) {
	targets := targetsOf(is)
	if slices.Equal(a.targets, targets) {
		return false
	}
	turn := -1
	if len(a.targets) > 0 {
		turn = slices.Index(targets, a.targets[a.turn%len(a.targets)])
	}
	a.targets, a.turn = targets, max(turn, 0)
	return turn < 0
}

// None says that the peer has no address that could be asked.
func (a *Aim) None() bool { return len(a.targets) == 0 }

// Other has another address asked the next time.
func (a *Aim) Other() { a.turn++ }

// Choose is whom to ask, and from which of our own addresses; false: there is no address of the peer's whose family we have.
func (a *Aim) Choose(own []netip.Addr) (from, to netip.Addr, ok bool) {
	for range a.targets {
		to := a.targets[a.turn%len(a.targets)]
		i := slices.IndexFunc(own, func(o netip.Addr) bool { return o.Is4() == to.Is4() })
		if i >= 0 && !slices.Contains(own, to) {
			return own[i], to, true
		}
		a.turn++
	}
	return netip.Addr{}, netip.Addr{}, false
}
