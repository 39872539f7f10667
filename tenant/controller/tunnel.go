package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// tunnelReconciler gives every injected pod of a tunnel its TunnelMember.
type tunnelReconciler struct {
	client   client.Client
	live     client.Reader // the API server itself
	recorder events.EventRecorder
	memory   *memory
	options  Options
}

func (r *tunnelReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	rec := r.memory.of(req.NamespacedName)
	in, err := r.gather(ctx, req.NamespacedName, rec)
	if err != nil {
		return reconcile.Result{}, err
	}
	plan := tenant.NewPlan(in, req.Name)
	if err := r.apply(ctx, req.Namespace, plan, rec); err != nil {
		return reconcile.Result{}, err
	}
	if in.Tunnel == nil {
		r.memory.forget(req.NamespacedName)
		return reconcile.Result{}, nil
	}
	r.report(in, rec.unreported(plan.Problems))
	again, err := r.status(ctx, in.Tunnel, plan.Status, rec)
	if len(rec.written) > 0 && again == 0 {
		again = confirmation + time.Second // nothing else would bring us back if the write never does
	}
	if next := tenant.NextExpiry(in.Peers, in.Now); next > 0 && (again == 0 || next < again) {
		again = next
	}
	return reconcile.Result{RequeueAfter: again}, err
}

// gather reads the caches. The first time, the members come from the API server: the leader before us may have given out
// addresses that our cache does not know yet. So does the news that a tunnel is gone, as it costs every member its membership.
func (r *tunnelReconciler) gather(ctx context.Context, name types.NamespacedName, rec *record) (in tenant.Inputs, err error) {
	if in.Tunnel, err = getTunnel(ctx, r.client, name); err != nil {
		return in, err
	}
	var reader client.Reader = r.client
	if in.Tunnel == nil {
		if in.Tunnel, err = getTunnel(ctx, r.live, name); err != nil {
			return in, err
		}
	}
	if in.Tunnel != nil && !rec.listed {
		reader = r.live
	}
	var members v1alpha1.TunnelMemberList
	if err := reader.List(ctx, &members, client.InNamespace(name.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return in, fmt.Errorf("list the members of namespace %s: %w", name.Namespace, err)
	}
	in.Members = rec.overlay(members.Items, r.memory.now())
	if reader == r.live { // after overlay: it is the cache that has to confirm them
		rec.remember(members.Items, name.Name, r.memory.now())
	}
	if in.Tunnel == nil {
		return in, nil
	}
	var pods corev1.PodList
	if err := r.client.List(ctx, &pods, client.InNamespace(name.Namespace), client.MatchingLabels{v1alpha1.LabelTunnel: name.Name},
		client.UnsafeDisableDeepCopy); err != nil {
		return in, fmt.Errorf("list the pods of tunnel %s: %w", name, err)
	}
	var peers v1alpha1.TunnelPeerList
	if err := r.client.List(ctx, &peers, client.InNamespace(name.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return in, fmt.Errorf("list the peers of namespace %s: %w", name.Namespace, err)
	}
	in.Pods, in.Peers, in.Now = pods.Items, peers.Items, r.memory.now()
	if in.Services, err = egressServices(ctx, r.client, in.Tunnel); err != nil {
		return in, err
	}
	at, err := siteOf(ctx, r.client, in.Tunnel)
	if err != nil {
		return in, err
	}
	in.GatewayRefused = r.options.Pods.GatewayRefused(in.Tunnel, at)
	return in, nil
}

// getTunnel is the tunnel, nil when there is none.
func getTunnel(ctx context.Context, c client.Reader, name types.NamespacedName) (*v1alpha1.TenantTunnel, error) {
	t := &v1alpha1.TenantTunnel{}
	err := c.Get(ctx, name, t)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get TenantTunnel %s: %w", name, err)
	}
	return t, nil
}

// apply makes the members so. One that fails does not keep the others from joining.
func (r *tunnelReconciler) apply(ctx context.Context, namespace string, plan tenant.Plan, rec *record) error {
	var errs []error
	deleted := make(map[string]types.UID, len(plan.Delete))
	for i := range plan.Delete {
		m := &plan.Delete[i]
		if err := r.delete(ctx, m); err != nil {
			errs = append(errs, err)
			continue
		}
		deleted[m.Name] = m.UID
		delete(rec.written, m.Name)
	}
	for _, want := range plan.Apply {
		u, err := apply(ctx, r.client, memberObject(namespace, want))
		if err == nil {
			err = r.confirm(ctx, u, want, deleted[want.Name], rec)
		}
		if err = ignoreTerminating(err); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil || len(errs) >= 10 {
			break // the API server is in trouble: come back later rather than press on
		}
	}
	return errors.Join(errs...)
}

func (r *tunnelReconciler) delete(ctx context.Context, m *v1alpha1.TunnelMember) error {
	uid := m.UID
	o := &v1alpha1.TunnelMember{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name}}
	if err := gone(r.client.Delete(ctx, o, client.Preconditions{UID: &uid})); err != nil {
		return fmt.Errorf("delete TunnelMember %s/%s: %w", m.Namespace, m.Name, err)
	}
	return nil
}

// confirm remembers what was written. A new member that came back with a public key is an old one of that name which we did not
// know of: the key is another pod's, so it goes.
func (r *tunnelReconciler) confirm(ctx context.Context, u *unstructured.Unstructured, want tenant.DesiredMember, replaced types.UID, rec *record) error {
	var m v1alpha1.TunnelMember
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &m); err != nil {
		return fmt.Errorf("read TunnelMember %s/%s: %w", u.GetNamespace(), u.GetName(), err)
	}
	if want.Existing == "" && m.Status.PublicKey != "" {
		if err := r.delete(ctx, &m); err != nil {
			return err
		}
		return fmt.Errorf("make TunnelMember %s/%s: an unknown one with a key had the name; it was deleted", m.Namespace, m.Name)
	}
	rec.written[m.Name] = written{member: m, replaced: replaced, at: r.memory.now()}
	return nil
}

func (r *tunnelReconciler) report(in tenant.Inputs, problems []tenant.Problem) {
	for _, p := range problems {
		pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{Namespace: in.Tunnel.Namespace, Name: p.Pod, UID: p.PodUID}}
		r.recorder.Eventf(pod, in.Tunnel, corev1.EventTypeWarning, string(p.Reason), "Join", "%s", p.Message)
	}
}

// status writes the tunnel's status when it changed, and says when to come back if it is too early for that.
func (r *tunnelReconciler) status(ctx context.Context, t *v1alpha1.TenantTunnel, s tenant.Status, rec *record) (time.Duration, error) {
	now := r.memory.now()
	at := metav1.NewTime(now)
	want := v1alpha1.TenantTunnelStatus{
		ObservedGeneration: t.Generation, Version: wire.ShortVersion(r.options.Version),
		Conditions: []metav1.Condition{
			tenant.Condition(t.Status.Conditions, v1alpha1.ConditionAccepted, s.Accepted.Accepted(), s.Accepted, t.Generation, at),
			tenant.Condition(t.Status.Conditions, v1alpha1.ConditionReady, s.IsReady(), s.Ready, t.Generation, at),
		},
		Addressing: &s.Addressing, Members: &s.Members, Datapaths: s.Datapaths, Gateway: s.Gateway, Services: s.Services,
	}
	if equality.Semantic.DeepEqual(t.Status, want) {
		return 0, nil
	}
	if wait := rec.statusTime.Add(r.options.StatusInterval).Sub(now); wait > 0 {
		return wait, nil
	}
	rec.statusTime = now
	if err := writeTunnelStatus(ctx, r.client, t, want); apierrors.IsConflict(err) {
		return r.options.StatusInterval, nil // the cache will have the newer one by then
	} else if err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if reasonOf(t.Status.Conditions, v1alpha1.ConditionAccepted) != s.Accepted.Reason {
		r.recorder.Eventf(t, nil, eventType(s.Accepted), string(s.Accepted.Reason), "Decide", "%s", want.Conditions[0].Message)
	}
	if reasonOf(t.Status.Conditions, v1alpha1.ConditionReady) != s.Ready.Reason && s.Ready.NeedsChange() {
		r.recorder.Eventf(t, nil, eventType(s.Ready), string(s.Ready.Reason), "Join", "%s", want.Conditions[1].Message)
	}
	return 0, nil
}

func reasonOf(conditions []metav1.Condition, kind string) tenant.Reason {
	if c := meta.FindStatusCondition(conditions, kind); c != nil {
		return tenant.Reason(c.Reason)
	}
	return ""
}
