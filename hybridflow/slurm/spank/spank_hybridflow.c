/*
 * spank_hybridflow: gives a job the QPU slots that its allocation holds.
 *
 * Copyright (C) 2026 the hybridflow maintainers
 *
 * This program is free software; you can redistribute it and/or modify it under the terms of the GNU
 * General Public License as published by the Free Software Foundation; either version 2 of the
 * License, or (at your option) any later version. It is distributed in the hope that it will be
 * useful, but WITHOUT ANY WARRANTY; see <https://www.gnu.org/licenses/> for the details.
 *
 *   sbatch, srun, salloc   --qpu=NAME[,NAME]: checked against the list of names, no secrets needed
 *   slurmstepd, as root    what does this job's ALLOCATION hold on this node? -> helper "start"
 *                          -> variables for the tasks, or a reason, with which the tasks then fail
 *   epilog, as root        helper "end" releases what the job had acquired on this node
 *
 * The option grants nothing: cli_filter.lua turns it into a GRES or a licence, and what Slurm has
 * granted of these decides. All else (definitions, vendors, credentials) is the helper's, slots.py.
 * An error must show in the job and must not drain the node. So it is kept until the tasks start:
 * in a task, unlike in slurm_spank_init_post_opt or in a prolog, it fails the job alone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <slurm/slurm.h>
#include <slurm/spank.h>

SPANK_PLUGIN(hybridflow, 1);

#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
#define ASKED "HYBRIDFLOW_QPU_ASKED" /* tells cli_filter.lua which component has an own --qpu */
#define INHERITED "HYBRIDFLOW_QPU_INHERITED" /* tells the job that its --qpu is another's */
#define OPTION "SLURM_SPANK__SLURM_SPANK_OPTION_hybridflow_"

static const char *names = "/etc/slurm/qpus.names";
static const char *definitions = "/etc/hybridflow/qpus.json";
static const char *state = "/run/hybridflow";
static const char *grants; /* `state`, unless slurmctld is to see them too */
static const char *python = "/usr/bin/python3";
static const char *helper = "/usr/libexec/hybridflow/slots.py";
static int timeout = 60; /* seconds for the helper, vendors included */

static char asked[1024];       /* the value of --qpu */
static int partial;            /* --qpu-partial */
static int calls, later;       /* --qpu was seen so often for this component; it is not the first */
static char failure[4096];     /* why this node's tasks must not start */
static char remarks[4096];     /* what the user should know although they start */
static char credentials[4096]; /* this step's one-time file */

/* ---- the option ------------------------------------------------------------------------------ */

/* Whether the list of names has this one; `kind`, if given, must match too. All are put in `known`. */
static int is_known(const char *name, const char *kind, char *known, size_t size)
{
	char line[512], *its_name, *its_kind, *rest;
	int found = 0;
	FILE *file = fopen(names, "re");

	if (!file)
		return -1;
	known[0] = '\0';
	while (fgets(line, sizeof(line), file)) {
		its_name = strtok_r(line, " \t\n", &rest);
		if (!its_name || its_name[0] == '#')
			continue;
		its_kind = strtok_r(NULL, " \t\n", &rest);
		if (strlen(known) + strlen(its_name) + 3 < size) {
			strcat(known, known[0] ? ", " : "");
			strcat(known, its_name);
		}
		if (!strcmp(name, its_name) && (!kind || (its_kind && !strcmp(kind, its_kind))))
			found = 1;
	}
	fclose(file);
	return found;
}

static int check_asked(const char *list)
{
	char copy[sizeof(asked)], known[2048] = "", *name, *rest = copy;
	int found;

	if (strlen(list) >= sizeof(asked)) {
		slurm_error("hybridflow: --qpu is too long");
		return -1;
	}
	strcpy(copy, list);
	while ((name = strsep(&rest, ","))) {
		found = is_known(name, NULL, known, sizeof(known));
		if (found < 0) {
			slurm_error("hybridflow: the list of QPUs, %s, cannot be read: %m", names);
			return -1;
		}
		if (!*name || name[strspn(name, NAME_CHARACTERS)]) {
			slurm_error("hybridflow: --qpu=%s is no list of names: write --qpu=NAME[,NAME] "
				    "without blanks; known are: %s", list, known);
			return -1;
		}
		if (!found) {
			slurm_error("hybridflow: there is no QPU \"%s\"; known are: %s", name, known);
			return -1;
		}
	}
	return 0;
}

static int take_qpu(int val, const char *value, int remote)
{
	const char *inherited = getenv(OPTION "qpu");
	char *bad = asked;

	(void)val;
	if (!remote && check_asked(value))
		return -1;
	snprintf(asked, sizeof(asked), "%s", value);
	if (remote) {
		/* From the user's environment, checked by nobody: must not forge lines for the helper. */
		while (*(bad += strspn(bad, NAME_CHARACTERS ",")))
			*bad = '_';
		return 0;
	}
	/*
	 * sbatch hands the option of one component on to the next through this variable, and salloc
	 * to every sbatch in its shell: it calls this function with it, after any option of its own.
	 */
	calls++;
	if (!inherited || strcmp(inherited, value) || !(later || getenv("SLURM_JOB_ID")))
		setenv(ASKED, value, 1);
	else if (calls > 1)
		setenv(ASKED, value, 0);
	return 0;
}

static int take_partial(int val, const char *value, int remote)
{
	(void)val, (void)value, (void)remote;
	partial = 1;
	return 0;
}

static struct spank_option options[] = {
	{"qpu", "name[,name]", "QPUs to get a slot of", 1, 0, take_qpu},
	{"qpu-partial", NULL, "start the job also when only some of its QPUs can be acquired", 0, 0,
	 take_partial},
};

/* ---- small things ------------------------------------------------------------------------------ */

#define fail(...) snprintf(failure, sizeof(failure), __VA_ARGS__)

static const char *node_name(void)
{
	const char *name = getenv("SLURMD_NODENAME"); /* slurmd's own, not the job's */

	return name ? name : "localhost";
}

/* What runs as root must not be for others to write. */
static int is_trusted(const char *path)
{
	struct stat seen;

	return path[0] == '/' && !stat(path, &seen) && S_ISREG(seen.st_mode) &&
	       (seen.st_uid == 0 || seen.st_uid == geteuid()) && !(seen.st_mode & 022);
}

/* ---- the helper -------------------------------------------------------------------------------- */

static void become_helper(const char *command, int input, int output)
{
	char seconds[16], *nothing[] = {NULL};
	char *words[] = {(char *)python, "-I", "-B", (char *)helper, (char *)command,
			 "--definitions", (char *)definitions, "--state", (char *)state,
			 "--grants", (char *)(grants ? grants : state),
			 "--node", (char *)node_name(), "--seconds", seconds, NULL};
	struct rlimit no_core = {0, 0}; /* it would hold the credentials */
	sigset_t none;
	int number, null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	snprintf(seconds, sizeof(seconds), "%d", timeout * 3 / 4 + 1);
	for (number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	umask(077);
	setrlimit(RLIMIT_CORE, &no_core);
	alarm((unsigned int)timeout); /* stays in force after execve: whatever hangs, it ends */
	/* An epilog has no open standard files, so the pipes may be these very numbers. */
	input = fcntl(input, F_DUPFD_CLOEXEC, 3);
	output = fcntl(output, F_DUPFD_CLOEXEC, 3);
	null = fcntl(null, F_DUPFD_CLOEXEC, 3);
	if (dup2(input, 0) < 0 || dup2(output, 1) < 0 || dup2(null, 2) < 0 || chdir("/"))
		_exit(126);
	execve(python, words, nothing);
	_exit(127);
}

static size_t read_all(int from, char *buffer, size_t size)
{
	size_t length = 0;
	ssize_t got;

	while (length + 1 < size && (got = read(from, buffer + length, size - length - 1))) {
		if (got < 0 && errno != EINTR)
			break;
		length += got > 0 ? (size_t)got : 0;
	}
	buffer[length] = '\0';
	return length;
}

/* Run the helper with `input`; its output, variables or a reason, is put into `output`. */
static int run_helper(const char *command, const char *input, char *output, size_t size)
{
	int to[2], from[2], status = -1; /* no exit status, should there be no answer */
	size_t length;
	pid_t child;

	if (!is_trusted(python) || !is_trusted(helper)) {
		snprintf(output, size, "%s and %s must exist, belong to root and be writable by no "
			 "other (see plugstack.conf)", python, helper);
		return -1;
	}
	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC) || (child = fork()) < 0) {
		snprintf(output, size, "the helper cannot be started: %s", strerror(errno));
		return -1;
	}
	if (!child)
		become_helper(command, to[0], from[1]);
	close(from[1]);
	/* It fits into the pipe, which is open at both ends here: this neither waits nor fails. */
	if (write(to[1], input, strlen(input)) < 0)
		slurm_error("hybridflow: the helper takes no input: %m");
	close(to[0]), close(to[1]);
	length = read_all(from[0], output, size);
	close(from[0]);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
		snprintf(output, size, "no answer within %d s", timeout);
	else if (length == 0)
		snprintf(output, size, "%s %s gave no reason (status %x)", python, helper, status);
	return -1;
}

/* ---- what the allocation holds ----------------------------------------------------------------- */

static void add(char *text, size_t size, const char *key, const char *value)
{
	size_t length = strlen(text);

	if (value && *value)
		snprintf(text + length, size - length, "%s %s\n", key, value);
}

static void add_number(char *text, size_t size, const char *key, long long number)
{
	char digits[32];

	snprintf(digits, sizeof(digits), "%lld", number);
	add(text, size, key, digits);
}

#if SLURM_VERSION_NUMBER < SLURM_VERSION_NUM(23, 11, 0)
typedef hostlist_t hosts_t;
#else
typedef hostlist_t *hosts_t;
#endif

/* The GRES that this job holds on this node; NULL if it is none of the job's nodes. */
static const char *gres_here(const slurm_job_info_t *job)
{
	hosts_t hosts = slurm_hostlist_create(job->nodes);
	int place = hosts ? slurm_hostlist_find(hosts, node_name()) : -1;

	slurm_hostlist_destroy(hosts);
	return place >= 0 && (uint32_t)place < job->gres_detail_cnt ? job->gres_detail_str[place] : NULL;
}

static int has_qpu_license(const char *licenses)
{
	char *copy = strdup(licenses ? licenses : ""), *rest = copy, *name, known[2048];
	int found = 0;

	while (copy && (name = strsep(&rest, ",")) && !found) {
		name[strcspn(name, ":@")] = '\0';
		found = is_known(name, "license", known, sizeof(known)) > 0;
	}
	free(copy);
	return found;
}

/* Load the job, or all components of its heterogeneous job. */
static job_info_msg_t *load(uint32_t id)
{
	job_info_msg_t *jobs = NULL, *all = NULL;

	if (slurm_load_job(&jobs, id, SHOW_DETAIL) || !jobs->record_count)
		return NULL;
	if (jobs->job_array[0].het_job_id && jobs->job_array[0].het_job_id != id &&
	    !slurm_load_job(&all, jobs->job_array[0].het_job_id, SHOW_DETAIL)) {
		slurm_free_job_info_msg(jobs);
		return all;
	}
	return jobs;
}

/* Write down, for the helper, what the job holds. Returns whether it holds or asked for a QPU. */
static int describe(const job_info_msg_t *jobs, uint32_t id, char *text, size_t size)
{
	int has_qpu = asked[0] != '\0';
	uint32_t i, k;

	for (i = 0; i < jobs->record_count; i++) {
		const slurm_job_info_t *job = &jobs->job_array[i];

		if (job->job_id != id && !job->het_job_id) /* another task of the job array */
			continue;
		for (k = 0; k < job->gres_detail_cnt; k++) /* a thousand nodes may have another GRES */
			if (job->gres_detail_str[k] && strstr(job->gres_detail_str[k], "qpu"))
				add(text, size, "gres", job->gres_detail_str[k]);
		add(text, size, "licenses", job->licenses);
		if (job->job_id != id)
			continue;
		const char *gres = gres_here(job);

		if (gres && strstr(gres, "qpu")) {
			add(text, size, "gres-here", gres);
			has_qpu = 1;
		}
		/* A licence is on no node: its slot is on the job's first one. */
		if (job->batch_host && !strcmp(job->batch_host, node_name()) &&
		    has_qpu_license(job->licenses)) {
			add(text, size, "licenses-here", job->licenses);
			has_qpu = 1;
		}
		add_number(text, size, "began", job->start_time);
		if (job->time_limit != INFINITE && job->time_limit != NO_VAL)
			add_number(text, size, "minutes", job->time_limit);
	}
	return has_qpu;
}

/* ---- the tasks' environment -------------------------------------------------------------------- */

/* Said by whoever granted a slot: from another job, or another node, it would be a lie here. */
static int is_stale(const char *variable)
{
	static const char *const starts[] = {"QRMI_JOB_", "QRMI_LIST_DELIMITER=", "SLURM_JOB_QPU_",
					     "HYBRIDFLOW_CREDENTIALS=", ASKED "=", INHERITED "=",
					     OPTION, NULL};
	const char *end = strchr(variable, '='), *inner = strstr(variable, "_QRMI_JOB_");
	int i;

	if (!end) /* no variable at all: nobody can read it, and Slurm cannot remove it */
		return 0;
	for (i = 0; starts[i]; i++)
		if (!strncmp(variable, starts[i], strlen(starts[i])))
			return 1;
	return inner && inner < end;
}

static void remove_stale(spank_t spank)
{
	char **all = NULL, *name;

	if (spank_get_item(spank, S_JOB_ENV, &all) || !all)
		return;
	while (*all) {
		if (!is_stale(*all)) {
			all++;
			continue;
		}
		name = strndup(*all, strcspn(*all, "="));
		if (!name || spank_unsetenv(spank, name) || spank_get_item(spank, S_JOB_ENV, &all))
			break; /* out of memory */
		free(name);
	}
}

static void set_variables(spank_t spank, char *lines)
{
	char *line, *value;

	while ((line = strsep(&lines, "\n"))) {
		if (line[0] == '#')
			add(remarks, sizeof(remarks), "without a QPU:", line + 2);
		if (line[0] == '#' || !(value = strchr(line, '=')))
			continue;
		*value++ = '\0';
		if (!strcmp(line, "HYBRIDFLOW_CREDENTIALS"))
			snprintf(credentials, sizeof(credentials), "%s", value);
		if (spank_setenv(spank, line, value, 1))
			fail("the variable %s cannot be set", line);
	}
}

/* ---- what Slurm calls -------------------------------------------------------------------------- */

static void read_settings(int count, char **words)
{
	static const struct { const char *key; const char **value; } texts[] = {
		{"names=", &names}, {"definitions=", &definitions}, {"state=", &state},
		{"grants=", &grants}, {"python=", &python}, {"helper=", &helper}};
	size_t k;
	int i;

	for (i = 0; i < count; i++) {
		for (k = 0; k < sizeof(texts) / sizeof(texts[0]); k++)
			if (!strncmp(words[i], texts[k].key, strlen(texts[k].key)))
				*texts[k].value = words[i] + strlen(texts[k].key);
		if (!strncmp(words[i], "timeout=", 8) && atoi(words[i] + 8) > 0)
			timeout = atoi(words[i] + 8);
	}
}

int slurm_spank_init(spank_t spank, int count, char **words)
{
	read_settings(count, words);
	if (spank_remote(spank) != 1)
		unsetenv(ASKED);
	return spank_option_register(spank, &options[0]) || spank_option_register(spank, &options[1])
		       ? -1 : 0;
}

static void start_step(spank_t spank)
{
	char text[16384] = "", output[65536];
	uint32_t id, step;
	uid_t uid;
	gid_t gid;
	job_info_msg_t *jobs;
	int has_qpu;

	if (spank_get_item(spank, S_JOB_ID, &id) || spank_get_item(spank, S_JOB_STEPID, &step) ||
	    spank_get_item(spank, S_JOB_UID, &uid) || spank_get_item(spank, S_JOB_GID, &gid)) {
		fail("Slurm does not say which job this is");
		return;
	}
	if (step == SLURM_EXTERN_CONT) /* no tasks of the user's */
		return;
	if (!(jobs = load(id))) {
		if (asked[0])
			fail("slurmctld does not say what the job holds: %s", slurm_strerror(errno));
		slurm_error("hybridflow: no slot looked for, slurmctld does not answer: %m");
		return;
	}
	add_number(text, sizeof(text), "job", id);
	add_number(text, sizeof(text), "step", step);
	add_number(text, sizeof(text), "uid", uid);
	add_number(text, sizeof(text), "gid", gid);
	add_number(text, sizeof(text), "partial", partial);
	add(text, sizeof(text), "asked", asked);
	has_qpu = describe(jobs, id, text, sizeof(text));
	slurm_free_job_info_msg(jobs);
	if (!has_qpu)
		return;
	if (run_helper("start", text, output, sizeof(output)))
		fail("%.4000s", output);
	else
		set_variables(spank, output);
}

int slurm_spank_init_post_opt(spank_t spank, int count, char **words)
{
	char flag[2];

	(void)count, (void)words;
	if (spank_remote(spank) == 1) {
		if (!spank_getenv(spank, INHERITED, flag, sizeof(flag)))
			asked[0] = '\0';
		remove_stale(spank);
		start_step(spank);
		return 0;
	}
	if (asked[0] && !getenv(ASKED))
		setenv(INHERITED, "1", 1);
	else
		unsetenv(INHERITED);
	calls = 0;
	later = 1;
	if (getenv(ASKED) && !strcmp(program_invocation_short_name, "salloc"))
		slurm_info("hybridflow: this shell has no QPU slot, its steps have: start with srun "
			   "what needs it");
	unsetenv(ASKED); /* the next component speaks for itself */
	return 0;
}

static void say(const char *what, char *text)
{
	char *line;

	while ((line = strsep(&text, "\n")))
		if (*line)
			slurm_spank_log("hybridflow: %s%s", what, line);
}

/* The first callback whose messages reach the user's own stderr. */
int slurm_spank_user_init(spank_t spank, int count, char **words)
{
	char shown[sizeof(failure)];

	(void)spank, (void)count, (void)words;
	strcpy(shown, failure);
	say("no QPU slot: ", shown);
	say("", remarks);
	return 0;
}

int slurm_spank_task_init(spank_t spank, int count, char **words)
{
	(void)spank, (void)count, (void)words;
	return failure[0] ? -1 : 0;
}

int slurm_spank_exit(spank_t spank, int count, char **words)
{
	(void)count, (void)words;
	if (spank_remote(spank) == 1 && credentials[0] && unlink(credentials) && errno != ENOENT)
		slurm_error("hybridflow: %s cannot be removed: %m", credentials);
	return 0;
}

/* Never fails: a failed epilog would drain the node. */
int slurm_spank_job_epilog(spank_t spank, int count, char **words)
{
	char path[4096], text[64] = "", output[4096];
	uint32_t id;

	read_settings(count, words); /* here, slurm_spank_init is not called before */
	if (spank_get_item(spank, S_JOB_ID, &id))
		return 0;
	snprintf(path, sizeof(path), "%s/%s/jobs/%u.json", grants ? grants : state, node_name(), id);
	if (access(path, F_OK)) /* the job had no slot here */
		return 0;
	add_number(text, sizeof(text), "job", id);
	if (run_helper("end", text, output, sizeof(output)))
		slurm_error("hybridflow: job %u: %s", id, output);
	return 0;
}
