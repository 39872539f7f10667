package e2e

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/test/kit"
	"github.com/tenantwire/tenantwire/test/prom"
)

// The operator's alerts fire for what they are about, and end with it: nobody leads, which leaves a pod without an answer and a certificate
// without renewal; and then there is no operator at all.
func TestAlertsOfTheOperator(t *testing.T) { // alone: others need an operator
	p := prom.Start(t, cluster)
	n := cluster.Namespace(t)
	n.Tunnel("main")
	n.Create(kit.Pod("member"))
	n.WaitReady("member")
	t.Cleanup(func() { // for the tests that follow, whatever becomes of this one
		if err := cluster.Install(context.Background()); err != nil {
			t.Errorf("install again: %v", err)
		}
	})
	kit.Eventually(t, kit.Deadline, "evaluation of every alert", p.CheckRules)
	kit.Eventually(t, kit.Deadline, "what the leader tells", func() error {
		told, err := p.Query(fmt.Sprintf("tenantwire_tunnel_members{namespace=%q}", n.Name))
		if err == nil && len(told) == 0 {
			err = errorf("nothing yet")
		}
		return err
	})
	theirs := fmt.Sprintf("alertname=~%q", strings.Join(operatorAlerts, "|"))
	fires(t, p, theirs)

	system := &kit.Namespace{Cluster: cluster, T: t, Name: kit.SystemNamespace}
	release := takeLease(t, system)
	replaceServingCert(t, system)
	// The replica that was ended refuses until its Service forgets it.
	kit.Eventually(t, kit.Deadline, "a pod admitted", func() error { return n.TryCreate(kit.Pod("late")) })
	fires(t, p, theirs, "TenantWireCertificateExpiring", "TenantWireCoordinatorFailing", "TenantWireNoLeader", "TenantWireRotationStuck")
	release()
	n.WaitReady("late")
	fires(t, p, `alertname=~"TenantWireCertificateExpiring|TenantWireRotationStuck|TenantWireNoLeader"`)

	kit.Change(system, kit.OperatorName, &appsv1.Deployment{}, func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](0) })
	err := cluster.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(kit.SystemNamespace),
		client.MatchingLabels{"app.kubernetes.io/name": kit.OperatorName}, client.GracePeriodSeconds(0))
	if err != nil {
		t.Fatal(err)
	}
	fires(t, p, `alertname="TenantWireOperatorDown"`, "TenantWireOperatorDown")
	if err := cluster.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	fires(t, p, theirs)
}

// takeLease has nobody lead until release is called, and ends whoever led: it would notice only after twenty seconds.
func takeLease(t *testing.T, system *kit.Namespace) (release func()) {
	t.Helper()
	hold := func(ctx context.Context, holder string, seconds int32) (before string, err error) {
		l := &coordinationv1.Lease{}
		if err := cluster.Get(ctx, client.ObjectKey{Namespace: system.Name, Name: kit.OperatorName}, l); err != nil {
			return "", err
		}
		was := l.DeepCopy()
		l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds = &holder, &seconds
		return ptr.Deref(was.Spec.HolderIdentity, ""), cluster.Patch(ctx, l, client.MergeFrom(was))
	}
	released := false
	release = func() {
		if _, err := hold(context.WithoutCancel(t.Context()), "", 1); err != nil && !released {
			t.Errorf("give the lease back: %v", err)
		}
		released = true
	}
	t.Cleanup(func() {
		if !released {
			release()
		}
	})
	leader, err := hold(t.Context(), "a-test", 3600)
	if err != nil {
		t.Fatalf("take the lease: %v", err)
	}
	pods := system.Pods("")
	i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return strings.HasPrefix(leader, p.Name+"_") })
	if i < 0 {
		t.Fatalf("%q leads, which is none of the operator's %d pods", leader, len(pods))
	}
	kit.KillContainer(t, &pods[i], "operator")
	return release
}

// replaceServingCert gives the operator a certificate of its own CA that lasts ten days.
func replaceServingCert(t *testing.T, system *kit.Namespace) {
	t.Helper()
	var s corev1.Secret
	system.Read(servingCert, &s)
	ca, err := tls.X509KeyPair(s.Data["ca.crt"], s.Data["ca.key"])
	if err != nil {
		t.Fatalf("read the CA: %v", err)
	}
	serving, err := tls.X509KeyPair(s.Data["tls.crt"], s.Data["tls.key"])
	if err != nil {
		t.Fatalf("read the certificate: %v", err)
	}
	short := *serving.Leaf
	short.NotAfter = time.Now().Add(10 * 24 * time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, &short, ca.Leaf, serving.Leaf.PublicKey, ca.PrivateKey)
	if err != nil {
		t.Fatalf("make a certificate: %v", err)
	}
	kit.Change(system, servingCert, &corev1.Secret{}, func(s *corev1.Secret) {
		s.Data["tls.crt"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	})
}
