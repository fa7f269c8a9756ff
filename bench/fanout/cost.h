/* What a server process costs, from /proc: processor time, time in the queue for it, memory. See load.c. */
#pragma once
#include "common.h"

#include <dirent.h>

static int pid; /* 0: nobody asks */

static double queued_s; /* how long its threads waited for a core, as of the last cpu_s() */

static double cpu_s(void) { /* all threads that live */
  char name[64];
  snprintf(name, sizeof name, "/proc/%d/task", pid);
  DIR *folder = pid ? opendir(name) : NULL;
  double total = 0;
  queued_s = 0;
  for (struct dirent *entry; folder && (entry = readdir(folder));) {
    char file[400];
    unsigned long long ran = 0, queued = 0;
    snprintf(file, sizeof file, "%s/%s/schedstat", name, entry->d_name);
    FILE *text = entry->d_name[0] == '.' ? NULL : fopen(file, "r");
    if (!text) continue;
    if (fscanf(text, "%llu %llu", &ran, &queued) == 2) total += (double)ran / 1e9, queued_s += (double)queued / 1e9;
    fclose(text);
  }
  if (folder) closedir(folder);
  return total;
}

static long resident_kib(void) {
  char name[64], line[256];
  long found = 0;
  snprintf(name, sizeof name, "/proc/%d/status", pid);
  FILE *text = pid ? fopen(name, "r") : NULL;
  while (text && fgets(line, sizeof line, text))
    if (sscanf(line, "VmRSS: %ld", &found) == 1) break;
  if (text) fclose(text);
  return found;
}

static double own_cpu_s(void) {
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}
