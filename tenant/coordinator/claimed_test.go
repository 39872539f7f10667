package coordinator

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Who makes a TunnelPeer with the key of a member, or of the gateway, does not keep them out when they come back. A key that a peer had first
// is not a member's.
func TestClaimedKeys(t *testing.T) {
	f, srv := start(t, nil)
	member, gateway, late := f.add(0), f.add(1), f.add(2)
	f.tunnel.Spec.Gateway = &v1alpha1.Gateway{}
	f.members["pod-1"].Spec.Role = v1alpha1.RoleGateway
	claim := func(name string, r wire.Registration) {
		f.peers = append(f.peers, v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Namespace: "acme", Name: name},
			Spec: v1alpha1.TunnelPeerSpec{Tunnel: "net", PublicKey: r.PublicKey.String()}})
	}
	own, shared, taken := registration(), registration(), registration()
	if code, text := call(t, srv, wire.RegisterPath, member, own); code != 200 {
		t.Fatal(code, text)
	}
	claim("of-member", own)
	claim("of-gateway", shared)
	claim("first", taken)
	for name, c := range map[string]struct {
		token string
		r     wire.Registration
		want  int
	}{"a member that comes back": {member, own, 200}, "a gateway": {gateway, shared, 200}, "a member with a peer's key": {late, taken, 409}} {
		if code, text := call(t, srv, wire.RegisterPath, c.token, c.r); code != c.want {
			t.Errorf("%s: %d %s, want %d", name, code, text, c.want)
		}
	}
}
