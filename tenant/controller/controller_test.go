package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/event"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// running is a leader that runs under the shipped roles.
type running struct {
	bundle  atomic.Value
	changed chan event.GenericEvent
	cached  client.Client
	stop    func()
}

// start runs the controllers until the test ends or stop is called, as the operator's ServiceAccount.
func start(t *testing.T) *running {
	t.Helper()
	needCluster(t)
	r := &running{changed: make(chan event.GenericEvent, 1)}
	r.bundle.Store("ca one")
	skip, retry := true, 200*time.Millisecond
	mgr, err := ctrl.NewManager(cluster.operator, ctrl.Options{
		Logger: funcr.New(func(_, args string) { // whatever the shipped roles lack shows here
			if strings.Contains(args, "forbidden") {
				t.Errorf("the operator lacks a right: %s", args)
			}
		}, funcr.Options{}),
		Scheme: testScheme(), Cache: CacheOptions(operatorNamespace), Metrics: metricsserver.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: &skip}, LeaderElection: true, LeaderElectionID: LeaderElectionID,
		LeaderElectionNamespace: operatorNamespace, LeaderElectionReleaseOnCancel: true, RetryPeriod: &retry,
	})
	must(t, err)
	r.cached = mgr.GetClient()
	must(t, Setup(mgr, Options{CABundle: func() []byte { return []byte(r.bundle.Load().(string)) }, CAChanged: r.changed, Pods: gatewayPods(), StatusInterval: 10 * time.Millisecond}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("manager: %v", err)
		}
	}
	t.Cleanup(r.stop)
	return r
}

func makeTunnel(t *testing.T, ns, spec string) *v1alpha1.TenantTunnel {
	t.Helper()
	u := parse(t, "TenantTunnel", ns, "main", spec)
	must(t, cluster.admin.Create(t.Context(), u))
	return &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "main", UID: u.GetUID()}}
}

func makePod(t *testing.T, ns, name, tunnel string, annotations map[string]string, change ...func(*corev1.Pod)) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Annotations: annotations, Labels: map[string]string{v1alpha1.LabelTunnel: tunnel}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}}}},
	}
	for _, f := range change {
		f(pod)
	}
	// The account controller does not run here.
	automount := false
	pod.Spec.AutomountServiceAccountToken = &automount
	_ = cluster.admin.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "default"}})
	must(t, cluster.admin.Create(t.Context(), pod))
	return pod
}

func getMember(t *testing.T, pod *corev1.Pod) *v1alpha1.TunnelMember {
	t.Helper()
	m := &v1alpha1.TunnelMember{}
	eventually(t, func() error {
		m = &v1alpha1.TunnelMember{}
		if err := cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(pod), m); err != nil {
			return err
		}
		if m.Spec.PodUID != string(pod.UID) {
			return fmt.Errorf("member %s is of pod %s", m.Name, m.Spec.PodUID)
		}
		return nil
	})
	return m
}

func noMember(t *testing.T, ns, name string) {
	t.Helper()
	eventually(t, func() error {
		err := cluster.admin.Get(t.Context(), types.NamespacedName{Namespace: ns, Name: name}, &v1alpha1.TunnelMember{})
		if err == nil {
			return fmt.Errorf("member %s exists", name)
		}
		return client.IgnoreNotFound(err)
	})
}

func deletePod(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	must(t, cluster.admin.Delete(t.Context(), pod, client.GracePeriodSeconds(0)))
}

func TestPodBecomesMember(t *testing.T) {
	start(t)
	ns := namespace(t)
	tun := makeTunnel(t, ns, "{addressing: {ipv4Pool: 10.77.0.0/24}}")
	pod := makePod(t, ns, "web", "main", map[string]string{v1alpha1.AnnotationExpose: "53/udp"})
	m := getMember(t, pod)
	if len(m.Spec.Addresses) != 2 || m.Spec.Addresses[1] != "10.77.0.1" || !strings.HasPrefix(m.Spec.Addresses[0], "fd") {
		t.Errorf("addresses %v", m.Spec.Addresses)
	}
	if want := []v1alpha1.Port{{Port: 53, Protocol: v1alpha1.UDP}, {Port: 8080, Protocol: v1alpha1.TCP}}; !slices.Equal(m.Spec.Ports, want) {
		t.Errorf("ports %v, want %v", m.Spec.Ports, want)
	}
	if len(m.OwnerReferences) != 1 || m.OwnerReferences[0].UID != pod.UID || m.OwnerReferences[0].Kind != "Pod" || m.Labels[v1alpha1.LabelTunnel] != "main" {
		t.Errorf("owners %v, labels %v", m.OwnerReferences, m.Labels)
	}
	eventually(t, func() error {
		if err := cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(tun), tun); err != nil {
			return err
		}
		if s := tun.Status; s.Members == nil || s.Members.Total != 1 || s.Addressing == nil || s.Addressing.IPv4Pool != "10.77.0.0/24" ||
			reasonOf(s.Conditions, v1alpha1.ConditionReady) != tenant.ReasonMembersNotReady || !meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionAccepted) {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})

	must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(pod), pod))
	pod.Annotations[v1alpha1.AnnotationExpose] = ""
	must(t, cluster.admin.Update(t.Context(), pod))
	eventually(t, func() error {
		if m := getMember(t, pod); len(m.Spec.Ports) != 1 {
			return fmt.Errorf("ports %v after the annotation lost one", m.Spec.Ports)
		}
		return nil
	})
	deletePod(t, pod)
	noMember(t, ns, "web")
}

// A pod of a StatefulSet comes back under its name: the new pod gets a member without the old one's key.
func TestReplacedPodGetsNewMember(t *testing.T) {
	start(t)
	ns := namespace(t)
	makeTunnel(t, ns, "{}")
	first := getMember(t, makePod(t, ns, "db-0", "main", nil))
	registered := first.DeepCopy()
	registered.Status = v1alpha1.TunnelMemberStatus{PublicKey: goodKey, Endpoint: "10.0.0.1:51820", Datapath: v1alpha1.DatapathNetstack}
	must(t, cluster.admin.Status().Update(t.Context(), registered))
	deletePod(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "db-0"}})
	second := getMember(t, makePod(t, ns, "db-0", "main", nil))
	if second.UID == first.UID || second.Status.PublicKey != "" {
		t.Errorf("the new pod got the old member: UID %s, key %q", second.UID, second.Status.PublicKey)
	}
}

func TestFinishedPodLeaves(t *testing.T) {
	start(t)
	ns := namespace(t)
	makeTunnel(t, ns, "{}")
	pod := makePod(t, ns, "job", "main", nil)
	getMember(t, pod)
	must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(pod), pod))
	pod.Status.Phase = corev1.PodSucceeded
	must(t, cluster.admin.Status().Update(t.Context(), pod))
	noMember(t, ns, "job")
}

// Members and the CA go with the last tunnel, and a tenant's own ConfigMap of that name stays.
func TestTunnelDeleted(t *testing.T) {
	start(t)
	ns, other := namespace(t), namespace(t)
	ours := client.ObjectKey{Namespace: ns, Name: tenant.CAConfigMap}
	theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: other, Name: tenant.CAConfigMap}}
	must(t, cluster.admin.Create(t.Context(), theirs))
	tun := makeTunnel(t, ns, "{}")
	getMember(t, makePod(t, ns, "web", "main", nil))
	eventually(t, func() error { return cluster.admin.Get(t.Context(), ours, &corev1.ConfigMap{}) })
	must(t, cluster.admin.Delete(t.Context(), tun))
	noMember(t, ns, "web")
	eventually(t, func() error {
		if err := cluster.admin.Get(t.Context(), ours, &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the CA ConfigMap: %w", err)
		}
		return nil
	})
	must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(theirs), theirs))
}

// With the operator and the tunnels removed together, the cluster has to know by itself that the CA goes with the tunnels.
func TestCAIsOwnedByTheTunnels(t *testing.T) {
	start(t)
	ns := namespace(t)
	tunnels := map[string]types.UID{}
	owned := func() {
		t.Helper()
		eventually(t, func() error {
			var c corev1.ConfigMap
			if err := cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: tenant.CAConfigMap}, &c); err != nil {
				return err
			}
			got := map[string]types.UID{}
			for _, o := range c.OwnerReferences {
				got[o.Name] = o.UID
			}
			if !maps.Equal(got, tunnels) {
				return fmt.Errorf("owners %v, want %v", got, tunnels)
			}
			return nil
		})
	}
	for _, name := range []string{"one", "two"} {
		tun := &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
		must(t, cluster.admin.Create(t.Context(), tun))
		tunnels[name] = tun.UID
		owned()
	}
	must(t, cluster.admin.Delete(t.Context(), &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "one"}}))
	delete(tunnels, "one")
	owned()
}

func TestCAIsAppliedAgain(t *testing.T) {
	r := start(t)
	ns := namespace(t)
	makeTunnel(t, ns, "{}")
	is := func(want string) {
		t.Helper()
		eventually(t, func() error {
			var c corev1.ConfigMap
			err := cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: tenant.CAConfigMap}, &c)
			if err == nil && c.Data[tenant.CAKey] != want {
				err = fmt.Errorf("%q, want %q", c.Data[tenant.CAKey], want)
			}
			return err
		})
	}
	is("ca one")
	r.bundle.Store("ca two")
	r.changed <- event.GenericEvent{Object: &corev1.ConfigMap{}}
	is("ca two")
	c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: tenant.CAConfigMap}}
	must(t, cluster.admin.Patch(t.Context(), c, client.RawPatch(types.MergePatchType, []byte(`{"data":{"ca.crt":"somebody else's"}}`))))
	is("ca two")
	must(t, cluster.admin.Delete(t.Context(), c))
	is("ca two")
}

// Many pods at once, a leader that goes and one that comes with cold caches: nobody shares an address.
func TestAddressesAreUniqueAcrossLeaders(t *testing.T) {
	first := start(t)
	ns := namespace(t)
	makeTunnel(t, ns, "{addressing: {ipv4Pool: 10.77.0.0/25}}")
	const pods = 100
	for i := range pods {
		makePod(t, ns, fmt.Sprintf("p-%d", i), "main", nil)
		if i == pods/2 {
			first.stop()
			start(t)
		}
	}
	var members v1alpha1.TunnelMemberList
	eventually(t, func() error {
		must(t, cluster.admin.List(t.Context(), &members, client.InNamespace(ns)))
		if len(members.Items) != pods {
			return fmt.Errorf("%d members", len(members.Items))
		}
		return nil
	})
	owner := map[string]string{}
	for _, m := range members.Items {
		for _, a := range m.Spec.Addresses {
			if other, taken := owner[a]; taken {
				t.Errorf("%s and %s share %s", other, m.Name, a)
			}
			owner[a] = m.Name
		}
	}
}

// Fourteen addresses for fifteen pods: the last is told, and joins when there is room.
func TestPoolExhausted(t *testing.T) {
	start(t)
	ns := namespace(t)
	tun := makeTunnel(t, ns, "{addressing: {ipv4Pool: 10.77.0.0/28}}")
	var first *corev1.Pod
	for i := range 14 {
		pod := makePod(t, ns, fmt.Sprintf("p-%02d", i), "main", nil)
		getMember(t, pod)
		if i == 0 {
			first = pod
		}
	}
	last := makePod(t, ns, "z-last", "main", nil)
	eventually(t, func() error {
		must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(tun), tun))
		c := meta.FindStatusCondition(tun.Status.Conditions, v1alpha1.ConditionReady)
		if c == nil || c.Reason != string(tenant.ReasonPoolExhausted) || !strings.Contains(c.Message, "10.77.0.0/28") || !strings.Contains(c.Message, "z-last") {
			return fmt.Errorf("condition %v", c)
		}
		var events eventsv1.EventList
		must(t, cluster.admin.List(t.Context(), &events, client.InNamespace(ns)))
		if !slices.ContainsFunc(events.Items, func(e eventsv1.Event) bool {
			return e.Regarding.UID == last.UID && e.Reason == string(tenant.ReasonPoolExhausted)
		}) {
			return fmt.Errorf("no Event among %d for the pod", len(events.Items))
		}
		return nil
	})
	deletePod(t, first)
	getMember(t, last)
}

func TestPeerConditions(t *testing.T) {
	start(t)
	ns := namespace(t)
	makePeer := func(name, key, route string) {
		t.Helper()
		must(t, cluster.admin.Create(t.Context(), parse(t, "TunnelPeer", ns, name, fmt.Sprintf("{tunnel: main, publicKey: %q, routes: [%s]}", key, route))))
	}
	is := func(name string, want tenant.Reason) {
		t.Helper()
		eventually(t, func() error {
			var p v1alpha1.TunnelPeer
			must(t, cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, &p))
			if got := reasonOf(p.Status.Conditions, v1alpha1.ConditionAccepted); got != want || p.Status.ObservedGeneration != p.Generation {
				return fmt.Errorf("peer %s: %s, want %s", name, got, want)
			}
			return nil
		})
	}
	makePeer("a", goodKey, "192.168.0.0/24")
	is("a", tenant.ReasonTunnelNotFound)
	makeTunnel(t, ns, "{addressing: {ipv4Pool: 10.77.0.0/24}, egress: [{host: db, address: 172.16.0.1, ports: [{port: 1}]}]}")
	is("a", tenant.ReasonAccepted)
	makePeer("b", strings.Replace(goodKey, "x", "y", 1), "192.168.0.128/25")
	is("b", tenant.ReasonRouteOverlap)
	makePeer("c", goodKey, "172.16.0.0/16")
	is("c", tenant.ReasonDuplicateKey)
	must(t, cluster.admin.Delete(t.Context(), &v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "a"}}))
	is("b", tenant.ReasonAccepted)
	is("c", tenant.ReasonAccepted)
	eventually(t, func() error {
		var tun v1alpha1.TenantTunnel
		must(t, cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "main"}, &tun))
		if got := reasonOf(tun.Status.Conditions, v1alpha1.ConditionAccepted); got != tenant.ReasonAccepted {
			return fmt.Errorf("tunnel: %s although a peer has the route now", got)
		}
		return nil
	})
}

// Peers without routes are given addresses, which they keep and which no pod gets; what is chosen is nobody else's.
func TestPeerAddresses(t *testing.T) {
	r := start(t)
	ns := namespace(t)
	makeTunnel(t, ns, "{addressing: {ipv4Pool: 10.77.0.0/28, ipv6Prefix: 'fd00:1:2:3::/64'}}")
	peer := func(name, more string) {
		t.Helper()
		must(t, cluster.admin.Create(t.Context(), parse(t, "TunnelPeer", ns, name, fmt.Sprintf("{tunnel: main, publicKey: %q%s}", key.NewPrivate().Public(), more))))
	}
	get := func(name string) (p v1alpha1.TunnelPeer) {
		t.Helper()
		must(t, cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, &p))
		return p
	}
	has := func(name string, want int, reason tenant.Reason) v1alpha1.TunnelPeer {
		t.Helper()
		var p v1alpha1.TunnelPeer
		eventually(t, func() error {
			if p = get(name); len(p.Status.Addresses) != want || reasonOf(p.Status.Conditions, v1alpha1.ConditionAccepted) != reason {
				return fmt.Errorf("%s: %v, want %d addresses and %s", name, p.Status, want, reason)
			}
			return nil
		})
		return p
	}
	member := getMember(t, makePod(t, ns, "first", "main", nil))
	peer("laptop", "")
	peer("phone", "")
	peer("printer", ", addresses: [10.77.0.9]")
	peer("site", ", routes: [192.168.0.0/24]")
	peer("thief", ", addresses: ["+member.Spec.Addresses[1]+"]")
	laptop, phone := has("laptop", 2, tenant.ReasonAccepted), has("phone", 2, tenant.ReasonAccepted)
	has("printer", 1, tenant.ReasonAccepted)
	has("site", 0, tenant.ReasonAccepted)
	has("thief", 0, tenant.ReasonDuplicateAddress)
	used := map[string]string{}
	take := func(name string, addresses []string) {
		t.Helper()
		for _, a := range addresses {
			if other, ok := used[a]; ok {
				t.Errorf("%s has %s, which is %s's", name, a, other)
			}
			used[a] = name
		}
	}
	take("laptop", laptop.Status.Addresses)
	take("phone", phone.Status.Addresses)
	take("printer", get("printer").Status.Addresses)
	take("first", member.Spec.Addresses)
	for i := range 10 { // with these the pool is full
		take("pod", getMember(t, makePod(t, ns, fmt.Sprintf("pod-%d", i), "main", nil)).Spec.Addresses)
	}
	peer("late", "")
	late := has("late", 1, tenant.ReasonAccepted)
	if c := late.Status.Conditions[0]; !strings.Contains(c.Message, "10.77.0.0/28") {
		t.Errorf("a peer without an IPv4 address says %q", c.Message)
	}
	r.stop()
	start(t) // another leader
	peer("latest", "")
	has("latest", 1, tenant.ReasonAccepted)
	if now := get("laptop"); !slices.Equal(now.Status.Addresses, laptop.Status.Addresses) {
		t.Errorf("the laptop had %v and has %v", laptop.Status.Addresses, now.Status.Addresses)
	}
}

// A peer that is suspended or has expired takes no part, by what its condition says, and can come back.
func TestPeerAbsent(t *testing.T) {
	start(t)
	ns := namespace(t)
	makeTunnel(t, ns, "{}")
	peer := parse(t, "TunnelPeer", ns, "a", fmt.Sprintf("{tunnel: main, publicKey: %q, routes: [192.168.0.0/24], expiresAt: %q}", goodKey,
		time.Now().Add(3*time.Second).UTC().Format(time.RFC3339)))
	must(t, cluster.admin.Create(t.Context(), peer))
	var p v1alpha1.TunnelPeer
	is := func(want tenant.Reason) {
		t.Helper()
		eventually(t, func() error {
			must(t, cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "a"}, &p))
			if got := reasonOf(p.Status.Conditions, v1alpha1.ConditionAccepted); got != want || p.Status.ObservedGeneration != p.Generation {
				return fmt.Errorf("%s, want %s", got, want)
			}
			return nil
		})
	}
	change := func(patch string) {
		t.Helper()
		must(t, cluster.admin.Patch(t.Context(), &p, client.RawPatch(types.MergePatchType, []byte(patch))))
	}
	is(tenant.ReasonExpired) // nobody touches it
	change(`{"spec":{"expiresAt":null,"state":"Suspended"}}`)
	is(tenant.ReasonSuspended)
	change(`{"spec":{"state":"Active"}}`)
	is(tenant.ReasonAccepted)
}

// Nothing is written when nothing changes.
func TestSettles(t *testing.T) {
	start(t)
	ns := namespace(t)
	tun := makeTunnel(t, ns, "{}")
	pod := makePod(t, ns, "web", "main", nil)
	m := getMember(t, pod)
	eventually(t, func() error { // a second in which nothing was written
		before := tun.ResourceVersion + " " + m.ResourceVersion
		time.Sleep(time.Second)
		must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(tun), tun))
		m = getMember(t, pod)
		if now := tun.ResourceVersion + " " + m.ResourceVersion; now != before {
			return fmt.Errorf("versions %s, then %s", before, now)
		}
		return nil
	})
	must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(pod), pod))
	pod.Status.PodIP, pod.Status.PodIPs = "10.0.0.9", []corev1.PodIP{{IP: "10.0.0.9"}}
	must(t, cluster.admin.Status().Update(t.Context(), pod))
	time.Sleep(time.Second)
	version := tun.ResourceVersion
	must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(tun), tun))
	if again := getMember(t, pod); tun.ResourceVersion != version || again.ResourceVersion != m.ResourceVersion {
		t.Error("something was written although nothing changed")
	}
}
