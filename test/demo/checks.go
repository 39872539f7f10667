package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// check is one claim and how it is checked.
type check struct {
	claim string
	run   func(context.Context, *demo, *evidence) error
}

var checks = []check{
	{"both tenants enforce Pod Security restricted, and their pods were admitted with the sidecar", restricted},
	{"both tunnels work, each with the same addresses as the other", tunnelsReady},
	{"a request by Service name is answered through the tunnel, by the tenant's own server", byName},
	{"the same address leads to the tenant's own pod, whichever tenant asks", sameAddress},
	{"a tenant cannot reach the other's tunnel", otherTenant},
	{"what goes through the tunnel cannot be read on the wire", onTheWire},
	{"a namespace that did not opt in is untouched", untouched},
	{"the operator can read no tenant's Secrets", noSecrets},
	{"when no server is left, a request is refused: it never takes another way", failsClosed},
}

// optedIn are the namespaces with a tunnel.
var optedIn = []string{"acme", "globex"}

// sidecarOf is the sidecar of a pod; nil when it has none.
func sidecarOf(p pod) *container {
	i := slices.IndexFunc(p.Spec.InitContainers, func(c container) bool { return c.Name == "tenantwire" })
	if i < 0 {
		return nil
	}
	return &p.Spec.InitContainers[i]
}

func restricted(ctx context.Context, _ *demo, e *evidence) error {
	for _, t := range optedIn {
		ns, err := read[struct {
			Metadata metadata `json:"metadata"`
		}](ctx, "namespace", t)
		if err != nil {
			return err
		}
		level := ns.Metadata.Labels["pod-security.kubernetes.io/enforce"]
		if level != "restricted" {
			return fmt.Errorf("namespace %s enforces %q", t, level)
		}
		all, err := read[pods](ctx, "pods", "-n", t)
		if err != nil {
			return err
		}
		e.add("namespace %s enforces %s, %d pods:", t, level, len(all.Items))
		for i, p := range all.Items {
			s := sidecarOf(p)
			if s == nil {
				return fmt.Errorf("pod %s/%s has no sidecar", t, p.Metadata.Name)
			}
			if err := unprivileged(*s); err != nil {
				return fmt.Errorf("pod %s/%s: %w", t, p.Metadata.Name, err)
			}
			if i == 0 {
				var line bytes.Buffer
				if err := json.Compact(&line, s.SecurityContext); err != nil {
					return err
				}
				e.add("  %s: sidecar %s, securityContext %s", p.Metadata.Name, s.Image, line.String())
			}
		}
	}
	return nil
}

// unprivileged says what a sidecar has that it should not have.
func unprivileged(c container) error {
	var s struct {
		RunAsUser                *int64
		RunAsNonRoot             bool
		AllowPrivilegeEscalation *bool
		Privileged               bool
		Capabilities             struct{ Add, Drop []string }
	}
	if err := json.Unmarshal(c.SecurityContext, &s); err != nil {
		return fmt.Errorf("read securityContext: %w", err)
	}
	switch {
	case len(s.Capabilities.Add) > 0 || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}):
		return fmt.Errorf("the sidecar has capabilities: %s", c.SecurityContext)
	case !s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser == 0:
		return fmt.Errorf("the sidecar may be root: %s", c.SecurityContext)
	case s.Privileged || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation:
		return fmt.Errorf("the sidecar may gain privileges: %s", c.SecurityContext)
	}
	return nil
}

func tunnelsReady(ctx context.Context, _ *demo, e *evidence) error {
	// Readiness is a report that follows the pods' own readiness.
	for _, t := range optedIn {
		if _, err := kubectl(ctx, "wait", "-n", t, "tenanttunnels,tunnelmembers", "--all", "--for=condition=Ready", "--timeout=2m"); err != nil {
			return err
		}
	}
	out, err := kubectl(ctx, "get", "tenanttunnels,tunnelmembers", "-A", "-o", "wide")
	if err != nil {
		return err
	}
	e.add("$ kubectl get tenanttunnels,tunnelmembers -A -o wide")
	for line := range strings.Lines(out) {
		e.add("%s", strings.TrimRight(line, "\n"))
	}
	v4 := map[string][]string{}
	for _, t := range optedIn {
		tt, err := read[tunnel](ctx, "-n", t, "tenanttunnel", "main")
		if err != nil {
			return err
		}
		if a, r := status(tt.Status.Conditions, "Accepted"), status(tt.Status.Conditions, "Ready"); a != "True" || r != "True" {
			return fmt.Errorf("tunnel %s/main: Accepted is %s and Ready is %s", t, a, r)
		}
		ms, err := read[members](ctx, "-n", t, "tunnelmembers")
		if err != nil {
			return err
		}
		for _, m := range ms.Items {
			if r := status(m.Status.Conditions, "Ready"); r != "True" || m.Status.Datapath != "Netstack" {
				return fmt.Errorf("member %s/%s: Ready is %s and its datapath is %s", t, m.Metadata.Name, r, m.Status.Datapath)
			}
			v4[t] = append(v4[t], addressOf(m, 4).String())
		}
	}
	var both []string
	for _, a := range v4["acme"] {
		if slices.Contains(v4["globex"], a) {
			both = append(both, a)
		}
	}
	slices.Sort(both)
	e.add("addresses that both tenants use: %s", strings.Join(both, ", "))
	if len(both) == 0 {
		return errors.New("the tenants share no address")
	}
	return nil
}

func addressOf(m member, family int) netip.Addr {
	for _, s := range m.Spec.Addresses {
		if a, err := netip.ParseAddr(s); err == nil && a.Is4() == (family == 4) {
			return a
		}
	}
	return netip.Addr{}
}

func byName(ctx context.Context, _ *demo, e *evidence) error {
	for _, t := range optedIn {
		before, err := tunnelBytes(ctx, t)
		if err != nil {
			return err
		}
		answers, said, err := get(ctx, t, "app", "-n", "12", "http://web/")
		if err != nil {
			return fmt.Errorf("%w: %s", err, said)
		}
		after, err := tunnelBytes(ctx, t)
		if err != nil {
			return err
		}
		own, err := names(ctx, t, "app=web")
		if err != nil {
			return err
		}
		by := map[string]int{}
		for _, a := range answers {
			if !slices.Contains(own, a.Host) {
				return fmt.Errorf("%s's request was answered by %q, not one of %v", t, a.Host, own)
			}
			by[a.Host]++
		}
		e.add("%s: http://web/ asked %d times, answered by %v", t, len(answers), by)
		e.add("  its sidecar: wireguard_sent_bytes_total %.0f -> %.0f, wireguard_received_bytes_total %.0f -> %.0f",
			before.sent, after.sent, before.received, after.received)
		if after.sent <= before.sent || after.received <= before.received {
			return fmt.Errorf("%s: the requests did not go through the tunnel", t)
		}
	}
	return nil
}

// names are those of the pods with a label.
func names(ctx context.Context, namespace, label string) ([]string, error) {
	all, err := read[pods](ctx, "pods", "-n", namespace, "-l", label)
	var out []string
	for _, p := range all.Items {
		out = append(out, p.Metadata.Name)
	}
	return out, err
}

type traffic struct{ sent, received float64 }

// tunnelBytes adds up what the sidecar of a tenant's client counts.
func tunnelBytes(ctx context.Context, namespace string) (traffic, error) {
	clients, err := read[pods](ctx, "pods", "-n", namespace, "-l", "app=client")
	if err != nil || len(clients.Items) != 1 {
		return traffic{}, fmt.Errorf("find the client of %s: %d pods: %w", namespace, len(clients.Items), err)
	}
	sidecar := sidecarOf(clients.Items[0])
	if sidecar == nil {
		return traffic{}, fmt.Errorf("the client of %s has no sidecar", namespace)
	}
	port := 0
	for _, p := range sidecar.Ports {
		if p.Name == "tw-health" {
			port = p.ContainerPort
		}
	}
	text, err := kubectl(ctx, "get", "--raw", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/metrics", namespace, clients.Items[0].Metadata.Name, port))
	if err != nil {
		return traffic{}, err
	}
	var sum traffic
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		name, rest, _ := strings.Cut(s.Text(), "{")
		v, _ := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		switch name {
		case "wireguard_sent_bytes_total":
			sum.sent += v
		case "wireguard_received_bytes_total":
			sum.received += v
		}
	}
	return sum, nil
}

// server is a tenant's member behind Service web.
func server(ctx context.Context, tenant string) (member, error) {
	pods, err := names(ctx, tenant, "app=web")
	if err != nil {
		return member{}, err
	}
	ms, err := read[members](ctx, "-n", tenant, "tunnelmembers")
	if err != nil {
		return member{}, err
	}
	slices.SortFunc(ms.Items, func(a, b member) int { return addressOf(a, 4).Compare(addressOf(b, 4)) })
	for _, m := range ms.Items {
		if slices.Contains(pods, m.Metadata.Name) {
			return m, nil
		}
	}
	return member{}, fmt.Errorf("tenant %s has no member behind Service web", tenant)
}

func urlOf(a netip.Addr) string { return "http://" + netip.AddrPortFrom(a, 8080).String() + "/" }

func untouched(ctx context.Context, _ *demo, e *evidence) error {
	all, err := read[pods](ctx, "pods", "-n", "bystander")
	if err != nil {
		return err
	}
	for _, p := range all.Items {
		s := p.Spec
		if len(s.InitContainers) > 0 || len(s.HostAliases) > 0 {
			return fmt.Errorf("pod %s has containers or names that it did not ask for", p.Metadata.Name)
		}
		for _, v := range s.Volumes {
			if strings.HasPrefix(v.Name, "tenantwire") {
				return fmt.Errorf("pod %s has the volume %s", p.Metadata.Name, v.Name)
			}
		}
		for k := range p.Metadata.Labels {
			if strings.HasPrefix(k, "tenantwire.dev/") {
				return fmt.Errorf("pod %s has the label %s", p.Metadata.Name, k)
			}
		}
	}
	p := all.Items[0]
	var volumes []string
	for _, v := range p.Spec.Volumes {
		volumes = append(volumes, v.Name)
	}
	e.add("%d pods without sidecar; %s has %d init containers, %d host aliases, volumes %v",
		len(all.Items), p.Metadata.Name, len(p.Spec.InitContainers), len(p.Spec.HostAliases), volumes)
	answers, said, err := get(ctx, "bystander", "app", "http://web/")
	if err != nil || len(answers) != 1 {
		return fmt.Errorf("the bystander's request: %w: %s", err, said)
	}
	e.add("its own http://web/ is answered by %s, as before", answers[0].Host)
	return nil
}

func noSecrets(ctx context.Context, _ *demo, e *evidence) error {
	const operator = "--as=system:serviceaccount:tenantwire-system:tenantwire-operator"
	for _, c := range []struct {
		want string
		args []string
	}{
		{"no", []string{"get", "secrets", "-n", "acme"}},
		{"no", []string{"list", "secrets", "-n", "globex"}},
		{"no", []string{"watch", "secrets", "--all-namespaces"}},
		{"no", []string{"create", "pods/exec", "-n", "acme"}},
		{"yes", []string{"list", "pods", "-n", "acme"}}, // the control
	} {
		out, _ := kubectl(ctx, append([]string{"auth", "can-i", operator}, c.args...)...) // "no" is an exit status too
		got := strings.TrimSpace(out)
		e.add("may the operator %s? %s", strings.Join(c.args, " "), got)
		if got != c.want {
			return fmt.Errorf("want %s", c.want)
		}
	}
	return nil
}

func failsClosed(ctx context.Context, _ *demo, e *evidence) error {
	if _, err := kubectl(ctx, "scale", "-n", "acme", "deploy/web", "--replicas=0"); err != nil {
		return err
	}
	if _, err := kubectl(ctx, "wait", "-n", "acme", "pods", "-l", "app=web", "--for=delete", "--timeout=2m"); err != nil {
		return err
	}
	answers, said, err := get(ctx, "acme", "app", "-timeout", "2s", "http://web/")
	e.add("acme's servers are gone; http://web/: %s", reason(said))
	if err == nil || len(answers) > 0 {
		return errors.New("somebody answered")
	}
	answers, said, err = get(ctx, "globex", "app", "http://web/")
	if err != nil || len(answers) != 1 {
		return fmt.Errorf("globex's request: %w: %s", err, said)
	}
	e.add("globex's http://web/ is still answered by %s", answers[0].Host)
	_, err = kubectl(ctx, "scale", "-n", "acme", "deploy/web", "--replicas="+replicas["acme"]) // for whoever keeps the cluster
	return err
}
