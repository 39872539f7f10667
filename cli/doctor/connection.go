package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// connection is for a target that packets reach.
func (p *Path) connection(say found, object string, t *wire.DiagnosedTarget, far *End) {
	if t.Dial == nil || t.Dial.OK {
		return
	}
	said := fmt.Sprintf("a connection to port %d: %s", t.Port, t.Dial.Why)
	switch why := refusals(far); {
	case t.Dial.Reason != "Refused":
		say("NoAnswer", object, "the far end is reached, and the port does not answer: a firewall at the far end drops it, or its application does not accept", said, "at the far end: is the port open to the tunnel?")
	case far != nil && far.After != nil && !listed(far.After, t.Port):
		say("PortNotDeclared", object, fmt.Sprintf("the far end's pod does not let port %d in: it neither declares it nor is it behind an exposed Service", t.Port), said, fmt.Sprintf("declare it (containerPort), or kubectl -n %s annotate pod %s tenantwire.dev/expose=%d before it starts", p.Namespace, far.Pod, t.Port))
	case why["NotAllowed"] > 0:
		say("PolicyRefuses", object, "the far end refuses the near end: it takes it for an outside peer to which nothing is granted", said+"; refused there meanwhile: NotAllowed", fmt.Sprintf("kubectl -n %s describe tt: spec.policy", p.Namespace))
	default:
		pod := "the far end"
		if far != nil {
			pod = far.Pod
		}
		say("NotListening", object, fmt.Sprintf("the application at %s does not listen on port %d of all addresses or of 127.0.0.1", pod, t.Port), said+"; refused there meanwhile: "+grown(endBefore(far), endAfter(far), refusedCounts), p.listenFix(far, t.Port))
	}
}

func (p *Path) listenFix(far *End, port uint16) string {
	if far == nil {
		return fmt.Sprintf("at the far end: ss -ltn 'sport = :%d'", port)
	}
	return fmt.Sprintf("kubectl -n %s logs %s; and kubectl -n %s get service: is targetPort %d right?", p.Namespace, far.Pod, p.Namespace, port)
}

func endBefore(e *End) *wire.Diagnosis {
	if e == nil {
		return nil
	}
	return e.Before
}

func endAfter(e *End) *wire.Diagnosis {
	if e == nil {
		return nil
	}
	return e.After
}

func listed(d *wire.Diagnosis, port uint16) bool {
	return slices.ContainsFunc(d.Inbound, func(p wire.DiagnosedPort) bool { return p.Port.Port == port && p.Protocol == wire.TCP })
}

func dropped(d *wire.Diagnosis) map[string]uint64       { return d.Dropped }
func refusedCounts(d *wire.Diagnosis) map[string]uint64 { return d.Refused }

// refusals are the reasons for which the far end refused something between the two looks.
func refusals(far *End) map[string]uint64 {
	out := map[string]uint64{}
	if far == nil || far.Before == nil || far.After == nil {
		return out
	}
	for why, n := range far.After.Refused {
		if n > far.Before.Refused[why] {
			out[why] = n - far.Before.Refused[why]
		}
	}
	return out
}

// grown says which counters grew.
func grown(before, after *wire.Diagnosis, of func(*wire.Diagnosis) map[string]uint64) string {
	if before == nil || after == nil {
		return "it was not asked"
	}
	var out []string
	was, is := of(before), of(after)
	for _, why := range slices.Sorted(maps.Keys(is)) {
		if n := is[why] - was[why]; n > 0 {
			out = append(out, fmt.Sprintf("%d for %s", n, why))
		}
	}
	if len(out) == 0 {
		return "nothing that it counts"
	}
	return strings.Join(out, ", ")
}
