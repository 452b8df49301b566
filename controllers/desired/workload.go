package desired

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

// minReadySeconds is how long a pod is ready before it counts as available:
// kube-proxy sends it requests about a second after it is ready.
const minReadySeconds = 2

// workload gives what runs the pods. Nothing in it depends on the catalog:
// plugins that come and go restart nothing.
func workload(p Parameters) []runtime.ApplyConfiguration {
	switch p.Server.Spec.Storage.Type {
	case v1alpha1.StoragePerReplica:
		return []runtime.ApplyConfiguration{StatefulSet(p)}
	case v1alpha1.StorageShared:
		if p.Server.Spec.Storage.ExistingClaim != "" {
			return []runtime.ApplyConfiguration{Writer(p), Deployment(p)}
		}
		return []runtime.ApplyConfiguration{Claim(p), Writer(p), Deployment(p)}
	}
	return []runtime.ApplyConfiguration{Deployment(p)}
}

// Deployment runs the serving pods, but where each has a claim of its own.
func Deployment(p Parameters) *appsv1ac.DeploymentApplyConfiguration {
	template := imageTemplate(p)
	if p.Server.Spec.Server.Type != v1alpha1.ServerImage {
		template = podTemplate(p, Labels(p.Server.Name), serving(p))
		withVolumes(template.Spec, p, p.Server.Spec.Storage.Type != v1alpha1.StorageShared)
	}
	deployment := appsv1ac.Deployment(p.Server.Name, p.Server.Namespace).
		WithLabels(Labels(p.Server.Name)).
		WithOwnerReferences(owner(p.Server)).
		WithSpec(appsv1ac.DeploymentSpec().
			WithSelector(metav1ac.LabelSelector().WithMatchLabels(Selector(p.Server.Name))).
			WithRevisionHistoryLimit(3).
			// A new pod is there before an old one goes.
			WithMinReadySeconds(minReadySeconds).
			WithStrategy(appsv1ac.DeploymentStrategy().
				WithType(appsv1.RollingUpdateDeploymentStrategyType).
				WithRollingUpdate(appsv1ac.RollingUpdateDeployment().
					WithMaxSurge(intstr.FromInt32(1)).WithMaxUnavailable(intstr.FromInt32(0)))).
			WithTemplate(template))
	if p.Server.Spec.Replicas != nil {
		deployment.Spec.WithReplicas(*p.Server.Spec.Replicas)
	}
	return deployment
}

// StatefulSet runs serving pods that have a claim each.
func StatefulSet(p Parameters) *appsv1ac.StatefulSetApplyConfiguration {
	template := podTemplate(p, Labels(p.Server.Name), serving(p))
	withVolumes(template.Spec, p, true)
	policy := appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	if p.Server.Spec.Storage.ClaimPolicy == v1alpha1.ClaimDelete {
		policy = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	}
	set := appsv1ac.StatefulSet(p.Server.Name, p.Server.Namespace).
		WithLabels(Labels(p.Server.Name)).
		WithOwnerReferences(owner(p.Server)).
		WithSpec(appsv1ac.StatefulSetSpec().
			WithSelector(metav1ac.LabelSelector().WithMatchLabels(Selector(p.Server.Name))).
			WithRevisionHistoryLimit(3).
			WithServiceName(PeersName(p.Server.Name)).
			WithMinReadySeconds(minReadySeconds).
			// The pods do not need each other to start.
			WithPodManagementPolicy(appsv1.ParallelPodManagement).
			WithUpdateStrategy(appsv1ac.StatefulSetUpdateStrategy().WithType(appsv1.RollingUpdateStatefulSetStrategyType)).
			WithPersistentVolumeClaimRetentionPolicy(appsv1ac.StatefulSetPersistentVolumeClaimRetentionPolicy().
				WithWhenDeleted(policy).WithWhenScaled(policy)).
			WithTemplate(template))
	// The list is owned as a whole, with the defaults that the API server adds.
	claim := corev1ac.PersistentVolumeClaim(dataVolume, "").
		WithLabels(Labels(p.Server.Name)).
		WithSpec(claimSpec(p.Server, corev1.ReadWriteOnce).WithVolumeMode(corev1.PersistentVolumeFilesystem)).
		WithStatus(corev1ac.PersistentVolumeClaimStatus().WithPhase(corev1.ClaimPending))
	claim.Namespace, claim.Kind, claim.APIVersion = nil, nil, nil
	set.Spec.WithVolumeClaimTemplates(claim)
	if p.Server.Spec.Replicas != nil {
		set.Spec.WithReplicas(*p.Server.Spec.Replicas)
	}
	return set
}

// Writer fills a shared volume. There is never more than one: two would do no
// harm, and no good.
func Writer(p Parameters) *appsv1ac.DeploymentApplyConfiguration {
	name := WriterName(p.Server.Name)
	labels := Labels(p.Server.Name)
	labels["app"], labels["higress"] = name, name // not behind the Service
	template := podTemplate(p, labels, writing(p))
	withVolumes(template.Spec, p, true)
	return appsv1ac.Deployment(name, p.Server.Namespace).
		WithLabels(labels).
		WithOwnerReferences(owner(p.Server)).
		WithSpec(appsv1ac.DeploymentSpec().
			WithSelector(metav1ac.LabelSelector().WithMatchLabels(Selector(name))).
			WithRevisionHistoryLimit(3).
			WithReplicas(1).
			WithStrategy(appsv1ac.DeploymentStrategy().WithType(appsv1.RecreateDeploymentStrategyType)).
			WithTemplate(template))
}

// Claim is the shared volume. A claim that is to outlive the server has no owner.
func Claim(p Parameters) *corev1ac.PersistentVolumeClaimApplyConfiguration {
	claim := corev1ac.PersistentVolumeClaim(ClaimName(p.Server), p.Server.Namespace).
		WithLabels(Labels(p.Server.Name)).
		WithSpec(claimSpec(p.Server, corev1.ReadWriteMany))
	if p.Server.Spec.Storage.ClaimPolicy == v1alpha1.ClaimDelete {
		claim.WithOwnerReferences(owner(p.Server))
	}
	return claim
}

func claimSpec(server *v1alpha1.PluginServer, mode corev1.PersistentVolumeAccessMode) *corev1ac.PersistentVolumeClaimSpecApplyConfiguration {
	spec := corev1ac.PersistentVolumeClaimSpec().
		WithAccessModes(mode).
		WithResources(corev1ac.VolumeResourceRequirements().
			WithRequests(corev1.ResourceList{corev1.ResourceStorage: sizeLimit(server)}))
	if class := server.Spec.Storage.StorageClassName; class != nil {
		spec.WithStorageClassName(*class)
	}
	return spec
}
