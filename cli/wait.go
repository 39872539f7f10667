package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// pace is how often is looked whether what is waited for has come.
const pace = 300 * time.Millisecond

// wait looks until all is known that the config holds, and says what it waits for.
func (j *joining) wait(parent context.Context) (*outcome, error) {
	ctx, cancel := context.WithTimeout(parent, j.timeout)
	defer cancel()
	for said := ""; ; {
		var waits string
		s, err := j.look(ctx)
		if err == nil {
			var o *outcome
			if o, waits, err = j.decide(s); err != nil || waits == "" {
				return o, err
			}
		} else if waits = "the API server: " + err.Error(); !passing(err) {
			return nil, err
		}
		if ctx.Err() == nil && waits != said {
			j.say("waiting for %s", waits)
			said = waits
		}
		select {
		case <-ctx.Done():
			if parent.Err() != nil {
				return nil, errors.New("interrupted")
			}
			return nil, fmt.Errorf("waited %s (--timeout), in vain, for %s", j.timeout, cmp.Or(said, waits))
		case <-time.After(pace):
		}
	}
}

// seen is what there is in the cluster.
type seen struct {
	peer   v1alpha1.TunnelPeer
	tunnel v1alpha1.TenantTunnel
	entry  entry
}

// look gathers; all its errors are the API server's, or of the way to it.
func (j *joining) look(ctx context.Context) (*seen, error) {
	var s seen
	err := j.in.client.Get(ctx, j.in.key(j.name), &s.peer)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("peer %s was deleted meanwhile, by somebody else: %w", j.name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("look at peer %s: %w", j.name, err)
	}
	if err := j.in.client.Get(ctx, j.in.key(j.tunnel), &s.tunnel); err != nil {
		return nil, fmt.Errorf("look at tunnel %s: %w", j.tunnel, err)
	}
	if j.endpoint == "" {
		s.entry, err = j.in.entry(ctx, j.tunnel)
	}
	return &s, err
}

// outcome is a peer's config, and what the user should know besides.
type outcome struct {
	config peerConfig
	notes  []string
}

// decide makes the outcome of what was seen. waits says what is not there yet.
func (j *joining) decide(s *seen) (_ *outcome, waits string, err error) {
	if waits, err := decided(&s.peer); waits != "" || err != nil {
		return nil, waits, err
	}
	at := endpoint{at: j.endpoint}
	if at.at == "" {
		if at, waits = s.entry.endpoint(); waits != "" {
			return nil, waits, nil
		}
	}
	if g := s.tunnel.Status.Gateway; g == nil || g.PublicKey == "" {
		waits = fmt.Sprintf("the public key of the gateway of tunnel %s", s.tunnel.Name)
		if c := meta.FindStatusCondition(s.tunnel.Status.Conditions, v1alpha1.ConditionReady); c != nil && c.Status != metav1.ConditionTrue {
			waits += fmt.Sprintf(" (%s: %s)", c.Reason, c.Message)
		}
		return nil, waits, nil
	}
	if at.at, err = parseEndpoint(at.at); err != nil { // whoever says it, nothing but an endpoint gets into the config
		return nil, "", fmt.Errorf("what to dial: %w", err)
	}
	c, err := j.config(s, at.at)
	if err != nil {
		return nil, "", err
	}
	return &outcome{*c, j.notes(&s.peer, at, c)}, "", nil
}

// decided says what the operator has yet to decide about a peer, or that it does not accept it.
func decided(p *v1alpha1.TunnelPeer) (waits string, err error) {
	accepted := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionAccepted)
	switch {
	case accepted == nil || accepted.ObservedGeneration < p.Generation || accepted.Status == metav1.ConditionUnknown:
		return fmt.Sprintf("the operator to decide on peer %s (it runs in tenantwire-system)", p.Name), nil
	case accepted.Status == metav1.ConditionFalse && accepted.Reason == string(tenant.ReasonTunnelNotFound):
		return fmt.Sprintf("the operator to see tunnel %s", p.Spec.Tunnel), nil
	case accepted.Status == metav1.ConditionFalse:
		return "", fmt.Errorf("peer %s is not accepted (%s): %s", p.Name, accepted.Reason, accepted.Message)
	case len(p.Status.Addresses) == 0 && (len(p.Spec.Routes) == 0 || len(p.Spec.Addresses) > 0):
		return fmt.Sprintf("the addresses of peer %s", p.Name), nil
	}
	return "", nil
}

func (j *joining) config(s *seen, at string) (*peerConfig, error) {
	p, t := &s.peer, &s.tunnel
	c := &peerConfig{private: j.private, public: j.public, preshared: j.psk, endpoint: at, dns: j.dns, mtu: j.mtu, keepalive: j.keepalive}
	c.about = []string{fmt.Sprintf("Peer %s of tunnel %s in namespace %s.", p.Name, t.Name, p.Namespace)}
	if !j.private.IsZero() {
		c.about = append(c.about, "Whoever has this is the peer: keep it secret, and use it on one device.")
	}
	if !j.expires.IsZero() {
		c.about = append(c.about, "It expires at "+j.expires.Format(time.RFC3339)+".")
	}
	if g := t.Status.Gateway; len(g.Addresses) > 0 {
		c.about = append(c.about, fmt.Sprintf("For names of %s, the tunnel's exposed Services, ask the name server %s, and for no others.", tenant.Domain(t), strings.Join(g.Addresses, " or ")))
	}
	if c.mtu == 0 && t.Spec.MTU != nil {
		c.mtu = int(*t.Spec.MTU)
	}
	var err error
	if c.gateway, err = key.ParsePublic(t.Status.Gateway.PublicKey); err != nil {
		return nil, fmt.Errorf("status.gateway of tunnel %s: %w", t.Name, err)
	}
	if c.addresses, err = parseAll("status.addresses of peer "+p.Name, p.Status.Addresses, parseAddress); err != nil {
		return nil, err
	}
	c.allowed, err = allowed(t, j.allow)
	return c, err
}

// allowed are the tunnel's own ranges and others.
func allowed(t *v1alpha1.TenantTunnel, others []netip.Prefix) (out []netip.Prefix, err error) {
	if t.Status.Addressing == nil {
		return nil, fmt.Errorf("tunnel %s has no status.addressing: is the operator as new as this program?", t.Name)
	}
	for _, s := range []string{t.Status.Addressing.IPv6Prefix, t.Status.Addressing.IPv4Pool} {
		if s == "" {
			continue
		}
		r, err := parseOne("status.addressing of tunnel "+t.Name, s, parseRange)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return append(out, others...), nil
}

// notes are what the user should know when all has gone well.
func (j *joining) notes(p *v1alpha1.TunnelPeer, at endpoint, c *peerConfig) []string {
	name := p.Name
	if len(c.addresses) > 0 {
		name += " (" + join(c.addresses, netip.Addr.String) + ")"
	}
	a := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionAccepted)
	notes := []string{fmt.Sprintf("peer %s: %s", name, cmp.Or(a.Message, a.Reason))}
	if at.note != "" {
		notes = append(notes, "note: "+at.note)
	}
	if len(c.addresses) == 0 {
		notes = append(notes, "note: the config has no Address: the peer has none of its own in the tunnel, only routes; --address gives it one")
	}
	if j.private.IsZero() {
		notes = append(notes, "note: the config has no PrivateKey: put yours in where the comment is")
	}
	if j.preshared {
		notes = append(notes, "note: the gateway takes up to two minutes to learn the preshared key; until then it does not answer the peer")
	}
	return notes
}
