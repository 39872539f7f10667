package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// A tunnel that is deleted leaves nothing behind: no objects, no way in, and no plaintext in its place. Made again, the pods that
// run join it by themselves.
func TestDeleteTunnelAndMakeItAgain(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	tunnel := n.Tunnel("main", kit.Exposing("web"), withProxies(v1alpha1.ProxyEnvUnset))
	server := web(n, 1)[0]
	n.Create(kit.Pod("client"))
	n.WaitReady("client")
	n.EventuallyApp("client", "get", "http://web")
	address := n.Member(server.Name).Spec.Addresses[0]

	n.Remove(tunnel.DeepCopy())
	n.WaitGone(tunnel)
	kit.Eventually(t, kit.Deadline, "end of the members and the CA", func() error {
		var members v1alpha1.TunnelMemberList
		if err := n.List(t.Context(), &members, client.InNamespace(n.Name)); err != nil || len(members.Items) > 0 {
			return errorf("%d members, %w", len(members.Items), err)
		}
		if err := n.Get(t.Context(), client.ObjectKey{Namespace: n.Name, Name: kit.CAConfigMap}, &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
			return errorf("the CA is there: %v", err)
		}
		return nil
	})
	for _, args := range [][]string{{"http://web"}, {"-proxy", socks, "http://" + bracketed(address) + ":8080"}} {
		kit.Eventually(t, kit.Deadline, "refusal of "+strings.Join(args, " "), func() error {
			r := n.Exec("client", kit.AppContainer, append([]string{"get"}, args...)...)
			if r.Code == 0 || unanswered(r) {
				return errorf("%s", r)
			}
			return nil
		})
	}
	eventuallyRefused(n, func() *corev1.Pod { return kit.Pod("refused") }, "no TenantTunnel")
	for _, p := range n.Pods("") {
		for _, s := range p.Status.ContainerStatuses {
			if s.RestartCount > 0 {
				t.Errorf("%s restarted", p.Name)
			}
		}
	}

	n.Tunnel("main", kit.Exposing("web"), withProxies(v1alpha1.ProxyEnvUnset))
	n.Member(server.Name)
	if h, err := kit.ParseHello(n.EventuallyApp("client", "get", "http://web")); err != nil || !strings.HasPrefix(h.From, "127.0.0.1:") {
		t.Errorf("%+v, %v", h, err)
	}
}

// Members go with their pods, whichever way those end.
func TestDeletePods(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main")
	finished := kit.Pod("finished", "exit")
	finished.Spec.RestartPolicy = corev1.RestartPolicyNever
	n.Create(kit.Pod("gentle"), kit.Pod("forced"), finished)
	n.WaitReady("gentle", "forced")
	n.Member("gentle")
	n.Member("forced")
	n.Remove(kit.Pod("gentle"))
	n.Remove(kit.Pod("forced"), client.GracePeriodSeconds(0))
	kit.Eventually(t, kit.Deadline, "end of the pod whose application ends", func() error {
		if n.Read("finished", finished); finished.Status.Phase != corev1.PodSucceeded {
			return errorf("%s", kit.Describe(finished))
		}
		return nil
	})
	for _, name := range []string{"gentle", "forced", "finished"} {
		n.WaitGone(&v1alpha1.TunnelMember{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
}

// A namespace that goes away with everything in it does not hang on us.
func TestDeleteNamespace(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	web(n, 2)
	o := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n.Name}}
	if err := n.Delete(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, kit.Deadline, "end of the namespace", func() error {
		err := n.Get(t.Context(), client.ObjectKeyFromObject(o), o)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errorf("it is there: %v, %v", o.Status.Conditions, err)
	})
}
