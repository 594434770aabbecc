using UnityEditor;
using UnityEngine;

namespace Everscene.Editor
{
    /// <summary>What both the inspector and the window say about a connection.</summary>
    static class ReadOut
    {
        public static void Draw(EversceneClient client, string problem)
        {
            string words = client == null ? "not running" : StateOf(client);
            EditorGUILayout.LabelField("State", words);
            if (!string.IsNullOrEmpty(problem)) EditorGUILayout.HelpBox(problem, MessageType.Warning);
            if (client == null || client.Welcome == null) return;
            Welcome welcome = client.Welcome;
            ClientStatistics figures = client.Statistics;
            EditorGUILayout.LabelField("Stream", welcome.Model + ", " + welcome.Width + "×" + welcome.Height
                + ", " + welcome.Fps.ToString("0.#") + " fps, " + welcome.Device);
            EditorGUILayout.LabelField("Shown", figures.Fps.ToString("0.0") + " fps, " + figures.Transport
                + (client.Frames.HasRing ? client.Frames.IsMapped ? " (mapped)" : " (read)" : ""));
            EditorGUILayout.LabelField("Frame age", Pair(figures.AgeP50Ms, figures.AgeP95Ms));
            EditorGUILayout.LabelField("Event to screen", Pair(figures.SeenP50Ms, figures.SeenP95Ms));
            EditorGUILayout.LabelField("Skipped, lost, torn",
                figures.Skipped + ", " + figures.Lost + ", " + figures.Torn + " (copies made again)");
            EditorGUILayout.LabelField("Prompt", client.Prompt, EditorStyles.wordWrappedLabel);
        }

        static string StateOf(EversceneClient client)
        {
            if (client.State != ClientState.Connected) return client.State.ToString().ToLowerInvariant();
            return "connected, " + client.ServerState;
        }

        static string Pair(double p50, double p95) =>
            p95 <= 0 ? "–" : "p50 " + p50.ToString("0.0") + " ms, p95 " + p95.ToString("0.0") + " ms";
    }
}
