package doctor

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Clocks that differ by less are as good as equal: WireGuard and certificates bear more.
const (
	skewBorne = 10 * time.Second
	// A node's Lease is renewed every ten seconds, and the node counts as gone after forty or fifty.
	leaseBorne = 45 * time.Second
)

var clockChecks = []Check{
	{"ClockSkew", Warning, "this machine's clock agrees with the API server's", []source{srcServer}, clockSkew},
	{"NodeClockSkew", Error, "nodes' clocks agree with the API server's", []source{srcServer, srcNodes, srcNodeLeases}, nodeClockSkew},
	{"SidecarClockSkew", Error, "sidecars' clocks do", []source{srcServer}, sidecarClockSkew},
}

func clockSkew(f *Facts) []Finding {
	if d := f.Now.Sub(f.Server); d.Abs() > skewBorne {
		return []Finding{{Object: "this machine", What: "its clock and the API server's differ by " + d.Abs().Round(time.Second).String() + ": times that are told here are wrong by that",
			Evidence: fmt.Sprintf("it is %s here, and %s there", f.Now.UTC().Format(time.RFC3339), f.Server.UTC().Format(time.RFC3339)), Fix: "timedatectl set-ntp true"}}
	}
	return nil
}

func nodeClockSkew(f *Facts) (out []Finding) {
	server := f.Server.Add(f.LeasesRead.Sub(f.Now))
	for i := range f.NodeLeases {
		l := &f.NodeLeases[i]
		if l.Spec.RenewTime == nil {
			continue
		}
		ahead := l.Spec.RenewTime.Sub(server)
		ready := slices.ContainsFunc(f.Nodes, func(n corev1.Node) bool { return n.Name == l.Name && nodeReady(&n) })
		if !ready || ahead < skewBorne && ahead > -leaseBorne {
			continue
		}
		out = append(out, Finding{Object: "node " + l.Name, What: "the node's clock and the API server's differ by " + ahead.Abs().Round(time.Second).String() + " or so: peers refuse handshakes of a clock that went back, and certificates may not be valid there",
			Evidence: fmt.Sprintf("it renewed its Lease at %s by its own clock; it was %s at the API server", l.Spec.RenewTime.UTC().Format(time.RFC3339), server.UTC().Format(time.RFC3339)),
			Fix:      "timedatectl set-ntp true, on the node"})
	}
	return out
}

func nodeReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func sidecarClockSkew(f *Facts) (out []Finding) {
	for _, id := range f.asked() {
		s := f.Sidecars[id]
		if s.Device == nil {
			continue
		}
		// It was told between asking and hearing, which may have taken long.
		skew := s.Device.Time.Sub(s.Asked.Add(f.Server.Sub(f.Now)))
		if skew > -skewBorne && skew < skewBorne+s.Took {
			continue
		}
		out = append(out, Finding{Object: "pod " + id.String(), What: "the clock of the pod's node and the API server's differ by " + skew.Abs().Round(time.Second).String() + ": peers refuse handshakes of a clock that went back, and certificates may not be valid there",
			Evidence: fmt.Sprintf("the sidecar said that it is %s, at %s by the API server's clock", s.Device.Time.UTC().Format(time.RFC3339), s.Asked.Add(f.Server.Sub(f.Now)).UTC().Format(time.RFC3339)),
			Fix:      "timedatectl set-ntp true, on the node of the pod"})
	}
	return out
}
