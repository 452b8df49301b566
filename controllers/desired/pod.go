package desired

import (
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

const (
	dataVolume, dataDir       = "data", "/data"
	catalogVolume, catalogDir = "catalog", "/catalog"

	// gracePeriod is longer than the server's own: 5 s of accepting after the
	// end was announced, then 45 s for bodies that have begun.
	gracePeriod = 60
	// drainSeconds is how long a server that is not ours goes on before it is told to end.
	drainSeconds = 5
	// user is the unprivileged user of the image.
	user = 65532
)

// defaultSizeLimit of the volume, as in the CRD.
var defaultSizeLimit = resource.MustParse("2Gi")

// podTemplate is the same for serving pods and the writer, but for their labels,
// their container and who may write.
func podTemplate(p Parameters, own map[string]string, container *corev1ac.ContainerApplyConfiguration) *corev1ac.PodTemplateSpecApplyConfiguration {
	labels := maps.Clone(p.Server.Spec.PodLabels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels["sidecar.istio.io/inject"] = "false" // newer Istio reads the label, older the annotation
	maps.Copy(labels, own)
	annotations := map[string]string{"sidecar.istio.io/inject": "false"}
	maps.Copy(annotations, p.Server.Spec.PodAnnotations)
	spec := corev1ac.PodSpec().
		WithServiceAccountName(p.Server.Name).
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithTerminationGracePeriodSeconds(gracePeriod).
		WithSecurityContext(corev1ac.PodSecurityContext().
			WithRunAsNonRoot(true).WithRunAsUser(user).WithRunAsGroup(user).WithFSGroup(user).
			WithFSGroupChangePolicy(corev1.FSGroupChangeOnRootMismatch).
			WithSeccompProfile(corev1ac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
		WithContainers(container)
	return corev1ac.PodTemplateSpec().WithLabels(labels).WithAnnotations(annotations).WithSpec(schedule(spec, p))
}

// schedule adds what says where the pods run and how they are pulled.
func schedule(spec *corev1ac.PodSpecApplyConfiguration, p Parameters) *corev1ac.PodSpecApplyConfiguration {
	server := p.Server.Spec
	for _, secret := range server.Server.ImagePullSecrets {
		spec.WithImagePullSecrets(corev1ac.LocalObjectReference().WithName(secret.Name))
	}
	if len(server.Server.ImagePullSecrets) == 0 {
		for _, secret := range p.ImagePullSecrets {
			spec.WithImagePullSecrets(corev1ac.LocalObjectReference().WithName(secret))
		}
	}
	if len(server.NodeSelector) > 0 {
		spec.WithNodeSelector(server.NodeSelector)
	}
	for _, t := range server.Tolerations {
		spec.WithTolerations(convert[corev1ac.TolerationApplyConfiguration](t))
	}
	for _, c := range server.TopologySpreadConstraints {
		spec.WithTopologySpreadConstraints(convert[corev1ac.TopologySpreadConstraintApplyConfiguration](c))
	}
	if len(server.TopologySpreadConstraints) == 0 {
		spec.WithTopologySpreadConstraints(spread(p.Server.Name))
	}
	if server.PriorityClassName != "" {
		spec.WithPriorityClassName(server.PriorityClassName)
	}
	if server.Affinity != nil {
		return spec.WithAffinity(convert[corev1ac.AffinityApplyConfiguration](server.Affinity))
	}
	return spec.WithAffinity(apart(p.Server.Name))
}

// apart prefers different zones. As a second spread constraint that would switch
// the first one off on nodes without a zone. Pods that a rollout is about to end count here.
func apart(server string) *corev1ac.AffinityApplyConfiguration {
	return corev1ac.Affinity().WithPodAntiAffinity(corev1ac.PodAntiAffinity().
		WithPreferredDuringSchedulingIgnoredDuringExecution(corev1ac.WeightedPodAffinityTerm().WithWeight(100).
			WithPodAffinityTerm(corev1ac.PodAffinityTerm().
				WithTopologyKey(corev1.LabelTopologyZone).
				WithLabelSelector(metav1ac.LabelSelector().WithMatchLabels(Selector(server))))))
}

// spread prefers different nodes, so that two replicas also fit on one. It counts
// the pods of one revision of a Deployment alone: an anti-affinity counts those that a
// rollout is about to end too, and leaves all new ones on the node that had the fewest. A
// StatefulSet, whose pods lack that label, ends an old pod before it starts its new one.
func spread(server string) *corev1ac.TopologySpreadConstraintApplyConfiguration {
	return corev1ac.TopologySpreadConstraint().
		WithMaxSkew(1).
		WithTopologyKey(corev1.LabelHostname).
		WithWhenUnsatisfiable(corev1.ScheduleAnyway).
		WithLabelSelector(metav1ac.LabelSelector().WithMatchLabels(Selector(server))).
		WithMatchLabelKeys(appsv1.DefaultDeploymentUniqueLabelKey)
}

// withVolumes adds the data, where it is not a StatefulSet's claim, and, for
// who brings it there, the catalog.
func withVolumes(spec *corev1ac.PodSpecApplyConfiguration, p Parameters, writes bool) {
	switch p.Server.Spec.Storage.Type {
	case v1alpha1.StoragePerReplica:
	case v1alpha1.StorageShared:
		claim := corev1ac.PersistentVolumeClaimVolumeSource().WithClaimName(ClaimName(p.Server))
		if !writes {
			claim.WithReadOnly(true)
		}
		spec.WithVolumes(corev1ac.Volume().WithName(dataVolume).WithPersistentVolumeClaim(claim))
	default:
		spec.WithVolumes(corev1ac.Volume().WithName(dataVolume).WithEmptyDir(
			corev1ac.EmptyDirVolumeSource().WithSizeLimit(sizeLimit(p.Server))))
	}
	if writes { // optional: a pod whose catalog is not there yet asks the operator
		spec.WithVolumes(corev1ac.Volume().WithName(catalogVolume).WithConfigMap(
			corev1ac.ConfigMapVolumeSource().WithName(CatalogName(p.Server.Name)).WithOptional(true)))
	}
}

// serving is the container of the pods.
func serving(p Parameters) *corev1ac.ContainerApplyConfiguration {
	writes := p.Server.Spec.Storage.Type != v1alpha1.StorageShared
	container := program(p, writes).WithName(ContainerName).
		WithArgs("serve", "--data-dir="+dataDir, fmt.Sprintf("--listen=:%d", HTTPPort), fmt.Sprintf("--ops-listen=:%d", OpsPort)).
		WithPorts(
			corev1ac.ContainerPort().WithName("http").WithContainerPort(HTTPPort).WithProtocol(corev1.ProtocolTCP),
			corev1ac.ContainerPort().WithName("ops").WithContainerPort(OpsPort).WithProtocol(corev1.ProtocolTCP),
		).
		WithStartupProbe(probe("/healthz", 1, 60)).
		WithLivenessProbe(probe("/healthz", 10, 6)).
		WithReadinessProbe(probe("/readyz", 2, 3))
	if writes {
		// What follows "--" runs as a child of the server, not as a container
		// of its own: a container that restarts, a native sidecar too, makes its pod
		// unready, and all replicas read the same catalog.
		container.WithArgs("--").WithArgs(syncArgs(p)...)
	}
	return container
}

// writing is the container that fills a shared volume.
func writing(p Parameters) *corev1ac.ContainerApplyConfiguration {
	return program(p, true).WithName(WriterContainerName).WithArgs(syncArgs(p)...)
}

func syncArgs(p Parameters) []string {
	limit := sizeLimit(p.Server)
	return append([]string{
		"sync", "--data-dir=" + dataDir, "--catalog=" + catalogDir + "/" + CatalogKey,
		"--operator-url=" + p.ArtifactURL, "--server=" + p.Server.Namespace + "/" + p.Server.Name,
		fmt.Sprintf("--size-limit=%d", limit.Value()),
	}, peersArgs(p)...)
}

func program(p Parameters, writes bool) *corev1ac.ContainerApplyConfiguration {
	image := p.Server.Spec.Server.Image
	if image == "" {
		image = p.Image
	}
	data := corev1ac.VolumeMount().WithName(dataVolume).WithMountPath(dataDir)
	mounts := []*corev1ac.VolumeMountApplyConfiguration{data}
	if writes {
		mounts = append(mounts, corev1ac.VolumeMount().WithName(catalogVolume).WithMountPath(catalogDir).WithReadOnly(true))
	} else {
		data.WithReadOnly(true)
	}
	return corev1ac.Container().
		WithImage(image).
		WithImagePullPolicy(pullPolicy(p.Server)).
		WithCommand("/plugin-server").
		WithEnv(corev1ac.EnvVar().WithName("POD_NAME").WithValueFrom(corev1ac.EnvVarSource().
			WithFieldRef(corev1ac.ObjectFieldSelector().WithAPIVersion("v1").WithFieldPath("metadata.name")))).
		WithResources(resources(p.Server)).
		WithSecurityContext(corev1ac.SecurityContext().
			WithAllowPrivilegeEscalation(false).WithReadOnlyRootFilesystem(true).WithRunAsNonRoot(true).
			WithCapabilities(corev1ac.Capabilities().WithDrop("ALL"))).
		WithVolumeMounts(mounts...)
}

// imageTemplate runs somebody's plugin server as it is. Its nginx begins as root
// and needs to become another user. Which paths it answers is not known, so the
// kubelet only looks whether it listens.
func imageTemplate(p Parameters) *corev1ac.PodTemplateSpecApplyConfiguration {
	listens := func(period, failures int32) *corev1ac.ProbeApplyConfiguration {
		return corev1ac.Probe().WithTCPSocket(corev1ac.TCPSocketAction().WithPort(intstr.FromInt32(HTTPPort))).
			WithPeriodSeconds(period).WithTimeoutSeconds(5).WithFailureThreshold(failures)
	}
	container := corev1ac.Container().
		WithName(ContainerName).
		WithImage(p.Server.Spec.Server.Image).
		WithImagePullPolicy(pullPolicy(p.Server)).
		WithPorts(corev1ac.ContainerPort().WithName("http").WithContainerPort(HTTPPort).WithProtocol(corev1.ProtocolTCP)).
		WithResources(resources(p.Server)).
		WithStartupProbe(listens(1, 60)).
		WithLivenessProbe(listens(10, 6)).
		WithReadinessProbe(listens(2, 3)).
		// It ends at once when it is told to, and the rest of the cluster learns of that later.
		WithLifecycle(corev1ac.Lifecycle().WithPreStop(corev1ac.LifecycleHandler().WithSleep(corev1ac.SleepAction().WithSeconds(drainSeconds)))).
		WithSecurityContext(corev1ac.SecurityContext().
			WithAllowPrivilegeEscalation(false).
			WithCapabilities(corev1ac.Capabilities().WithDrop("ALL").WithAdd("CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID")))
	template := podTemplate(p, Labels(p.Server.Name), container)
	template.Spec.SecurityContext = corev1ac.PodSecurityContext().
		WithSeccompProfile(corev1ac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))
	return template
}

func pullPolicy(server *v1alpha1.PluginServer) corev1.PullPolicy {
	if policy := server.Spec.Server.ImagePullPolicy; policy != "" {
		return policy
	}
	return corev1.PullIfNotPresent
}

func probe(path string, period, failures int32) *corev1ac.ProbeApplyConfiguration {
	return corev1ac.Probe().
		WithHTTPGet(corev1ac.HTTPGetAction().WithPath(path).WithPort(intstr.FromInt32(OpsPort))).
		WithPeriodSeconds(period).WithTimeoutSeconds(5).WithFailureThreshold(failures)
}

func resources(server *v1alpha1.PluginServer) *corev1ac.ResourceRequirementsApplyConfiguration {
	if server.Spec.Resources != nil {
		return corev1ac.ResourceRequirements().
			WithRequests(server.Spec.Resources.Requests).WithLimits(server.Spec.Resources.Limits)
	}
	return corev1ac.ResourceRequirements().
		WithRequests(corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("200m"), corev1.ResourceMemory: resource.MustParse("128Mi"),
		}).
		WithLimits(corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("256Mi"),
		})
}

func sizeLimit(server *v1alpha1.PluginServer) resource.Quantity {
	if server.Spec.Storage.SizeLimit != nil {
		return *server.Spec.Storage.SizeLimit
	}
	return defaultSizeLimit
}
