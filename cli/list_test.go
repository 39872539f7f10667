package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func condition(kind string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: 1, LastTransitionTime: metav1.NewTime(testNow)}
}

func ago(d time.Duration) *metav1.Time { return &metav1.Time{Time: testNow.Add(-d)} }

func testPeer(name string, change func(*v1alpha1.TunnelPeer)) v1alpha1.TunnelPeer {
	p := v1alpha1.TunnelPeer{
		ObjectMeta: metav1.ObjectMeta{Namespace: "acme", Name: name, UID: types.UID(name), Generation: 1, CreationTimestamp: *ago(50 * time.Hour)},
		Spec:       v1alpha1.TunnelPeerSpec{Tunnel: "net", PublicKey: testPublic},
	}
	if change != nil {
		change(&p)
	}
	return p
}

func listed() []v1alpha1.TunnelPeer {
	return []v1alpha1.TunnelPeer{
		testPeer("laptop", func(p *v1alpha1.TunnelPeer) {
			p.Spec.ExpiresAt = ago(-30 * 24 * time.Hour)
			p.Spec.PresharedKey = &v1alpha1.PresharedKey{SecretKey: "laptop"}
			p.Status = v1alpha1.TunnelPeerStatus{Addresses: []string{"10.77.0.254", "fd12:3456:789a:1::7"}, LastHandshake: ago(70 * time.Second), Conditions: []metav1.Condition{
				condition("Accepted", metav1.ConditionTrue, "Accepted", "the peer is part of the tunnel"), condition("Connected", metav1.ConditionTrue, "Handshake", "")}}
		}),
		testPeer("new", func(p *v1alpha1.TunnelPeer) { p.CreationTimestamp = *ago(time.Second) }),
		testPeer("office", func(p *v1alpha1.TunnelPeer) {
			p.Spec.Endpoint, p.Spec.Routes = "vpn.example.com:51820", []string{"192.168.10.0/24", "192.168.20.0/24"}
			p.Spec.Mappings = []v1alpha1.RouteMapping{{Route: "192.168.20.0/24", MapTo: "192.168.21.0/24"}}
			p.Status = v1alpha1.TunnelPeerStatus{LastHandshake: ago(26 * time.Hour), Conditions: []metav1.Condition{
				condition("Accepted", metav1.ConditionTrue, "Accepted", ""), condition("Connected", metav1.ConditionUnknown, "Idle", "")}}
		}),
		testPeer("phone", func(p *v1alpha1.TunnelPeer) {
			p.Spec.ExpiresAt = ago(2 * time.Hour)
			p.Status.Conditions = []metav1.Condition{condition("Accepted", metav1.ConditionFalse, "Expired", "")}
		}),
		testPeer("second-office", func(p *v1alpha1.TunnelPeer) {
			p.Spec.Routes = []string{"192.168.10.0/25"}
			p.Status.Conditions = []metav1.Condition{condition("Accepted", metav1.ConditionFalse, "RouteOverlap", "")}
		}),
		testPeer("unkeyed", func(p *v1alpha1.TunnelPeer) {
			p.Spec.Tunnel, p.Spec.PresharedKey = "other", &v1alpha1.PresharedKey{SecretKey: "nosuch"}
			p.Status.Conditions = []metav1.Condition{condition("Accepted", metav1.ConditionTrue, "Accepted", ""), condition("Connected", metav1.ConditionFalse, "PresharedKeyMissing", "")}
		}),
	}
}

func TestList(t *testing.T) {
	var parts []txtar.File
	for _, c := range []struct {
		name string
		l    listing
	}{{"table", listing{}}, {"wide", listing{form: listWide, everywhere: true}}} {
		var b bytes.Buffer
		if err := printTable(&b, c.l, listed(), testNow); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, txtar.File{Name: c.name, Data: b.Bytes()})
	}
	for _, form := range []string{listJSON, listYAML} {
		var b bytes.Buffer
		if err := printObjects(&b, form, listed()[:1]); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, txtar.File{Name: form, Data: b.Bytes()})
	}
	golden(t, "testdata/list.txtar", parts)
}

func TestHelp(t *testing.T) {
	var parts []txtar.File
	for _, words := range []string{"", "peer", "peer add", "peer list", "peer rm", "status", "wg", "doctor", "inject", "version"} {
		code, out, errOut := try(t, append(strings.Fields(words), "--help")...)
		if code != ExitOK || errOut != "" {
			t.Errorf("%s: %d %q", words, code, errOut)
		}
		head := "\nGlobal Flags:\n"
		if words == "" {
			head = "\nFlags:\n"
		}
		out, global, _ := strings.Cut(out, head) // kubectl's own
		if !strings.Contains(global, "--kubeconfig") {
			t.Errorf("%s: no global flags", words)
		}
		parts = append(parts, txtar.File{Name: strings.TrimSpace("kubectl tenantwire " + words), Data: []byte(out)})
	}
	golden(t, "testdata/help.txtar", parts)
}
