package inspect

import (
	"slices"
	"strings"
)

// Where these facts come from: what the gateways register as imports is listed
// in include/proxy-wasm/exports.h and in WasmBase::registerCallbacks of
// src/wasm.cc of github.com/higress-group/proxy-wasm-cpp-host. The names and
// their meaning are those of the proxy-wasm ABI specification (versions 0.1.0,
// 0.2.0, 0.2.1) and of WASI snapshot preview 1.
//
//   - higress-2.0 is that list at commit 1d590ef. A report of Higress 2.0.4
//     (higress issue 4233) has sched_yield missing, as it has here.
//   - higress-2.1 is that list at commit 27df305, which the last patches of
//     Higress for Envoy 1.27.7 pin.
//   - higress-2.2 is the same list: the move to Envoy 1.36 took that commit over.
//
// What is uncertain: which commit each patch release was built from. Those
// early in 2.1 have less: commit 3feeb26 has some of wasiRest and one of
// streamExtras, 71f6a9e has all of wasiRest and none of streamExtras; a gateway
// with Envoy 1.27.7 was reported to lack proxy_inject_encoded_data_to_filter_chain
// (wasm-go issue 31). Those late in 2.2 pin newer commits, which may have more.
// Left out are path_link, path_rename and path_symlink: at 27df305 they are
// registered with fewer parameters than WASI gives them, and V8 refuses imports
// of another type.
//
// That a function is here means that a module that imports it is loaded, not
// that it does anything: most of WASI's files and sockets only give an error.
var profiles = []Profile{
	{Name: "higress-2.0", ByABI: byABI, Allowed: allowed(slices.Concat(proxyFunctions, redisExtras), wasiFirst)},
	{Name: "higress-2.1", ByABI: byABI, Allowed: allowed(slices.Concat(proxyFunctions, redisExtras, streamExtras), slices.Concat(wasiFirst, wasiRest))},
	{Name: "higress-2.2", ByABI: byABI, Allowed: allowed(slices.Concat(proxyFunctions, redisExtras, streamExtras), slices.Concat(wasiFirst, wasiRest))},
}

// proxyModule is the module that the functions of proxy-wasm are imported from.
const proxyModule = "env"

// allowed makes a table. WASI has two names: the second is from before its
// snapshots, and gateways offer both.
func allowed(proxy, wasi []string) map[string][]string {
	return map[string][]string{proxyModule: proxy, "wasi_snapshot_preview1": wasi, "wasi_unstable": wasi}
}

var (
	// proxyFunctions are those of every ABI, and two that C++ modules want.
	proxyFunctions = strings.Fields(`
		emscripten_notify_memory_growth
		proxy_add_header_map_value
		proxy_call_foreign_function
		proxy_define_metric
		proxy_dequeue_shared_queue
		proxy_done
		proxy_enqueue_shared_queue
		proxy_get_buffer_bytes
		proxy_get_buffer_status
		proxy_get_current_time_nanoseconds
		proxy_get_header_map_pairs
		proxy_get_header_map_size
		proxy_get_header_map_value
		proxy_get_metric
		proxy_get_property
		proxy_get_shared_data
		proxy_get_status
		proxy_grpc_call
		proxy_grpc_cancel
		proxy_grpc_close
		proxy_grpc_send
		proxy_grpc_stream
		proxy_http_call
		proxy_increment_metric
		proxy_log
		proxy_record_metric
		proxy_register_shared_queue
		proxy_remove_header_map_value
		proxy_replace_header_map_value
		proxy_resolve_shared_queue
		proxy_send_local_response
		proxy_set_buffer_bytes
		proxy_set_effective_context
		proxy_set_header_map_pairs
		proxy_set_property
		proxy_set_shared_data
		proxy_set_tick_period_milliseconds
		pthread_equal
	`)

	// redisExtras and streamExtras are Higress's own.
	redisExtras  = []string{"proxy_redis_call", "proxy_redis_init"}
	streamExtras = []string{"proxy_get_upstream_hosts", "proxy_inject_encoded_data_to_filter_chain", "proxy_set_upstream_override_host"}

	// byABI are those that only modules of one ABI have. Version 0.2.100 is
	// Higress's own; its functions are those of 0.2.1.
	byABI = map[string][]string{
		"0.1.0":   {"proxy_clear_route_cache", "proxy_continue_request", "proxy_continue_response", "proxy_get_configuration"},
		"0.2.0":   {"proxy_close_stream", "proxy_continue_stream"},
		"0.2.1":   {"proxy_close_stream", "proxy_continue_stream", "proxy_get_log_level"},
		"0.2.100": {"proxy_close_stream", "proxy_continue_stream", "proxy_get_log_level"},
	}

	wasiFirst = strings.Fields(`
		args_get args_sizes_get
		clock_time_get
		environ_get environ_sizes_get
		fd_close fd_fdstat_get fd_prestat_dir_name fd_prestat_get fd_read fd_seek fd_write
		path_open
		proc_exit
		random_get
	`)

	// wasiRest came with the support of modules that Go builds without TinyGo.
	wasiRest = strings.Fields(`
		clock_res_get
		fd_advise fd_allocate fd_datasync fd_fdstat_set_flags fd_fdstat_set_rights fd_filestat_get
		fd_filestat_set_size fd_filestat_set_times fd_pread fd_pwrite fd_readdir fd_renumber fd_sync fd_tell
		path_create_directory path_filestat_get path_filestat_set_times path_readlink path_remove_directory path_unlink_file
		poll_oneoff
		sched_yield
		sock_accept sock_recv sock_send sock_shutdown
	`)
)
